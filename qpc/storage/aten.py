"""The operators of PyTorch that a saved graph may call, with all their functional overloads.

The list is closed. It has what a traced model can hold after normalisation, and its like. What
opens files, looks at memory beyond a tensor (`from_file`, `as_strided`, `_reinterpret_tensor`) or
leaves it unset (`empty`), and what depends on values, is not in it.
"""

from __future__ import annotations

_NAMES = """
__lshift__ __rshift__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _conj_physical
_log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _softmax _to_copy
_unsafe_index _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm
_weight_norm_interface abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv
addcmul addmm addmv addr adjoint affine_grid_generator alias all alpha_dropout amax amin aminmax
angle any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort asin
asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear bitwise_and
bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm broadcast_tensors
broadcast_to bucketize cat cdist ceil celu channel_shuffle chunk clamp clamp_max clamp_min clip
clone col2im column_stack complex concat concatenate conj constant_pad_nd contiguous conv1d conv2d
conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution copy copysign cos cosh
cosine_similarity count_nonzero cross cummax cummin cumprod cumsum deg2rad det detach diag
diag_embed diagonal diff digamma dist div divide dot dropout dstack einsum elu embedding eq erf
erfc erfinv exp exp2 expand expand_as expm1 eye feature_alpha_dropout feature_dropout fft_fft
fft_fft2 fft_fftn fft_ifft fft_ifft2 fft_ifftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2
fft_rfftn fill fix flatten flip fliplr flipud float_power floor floor_divide fmax fmin fmod frac
full full_like gather ge gelu glu greater greater_equal grid_sampler grid_sampler_2d
grid_sampler_3d group_norm gru gru_cell gt hardshrink hardsigmoid hardswish hardtanh heaviside
hstack hypot i0 im2col imag index index_add index_copy index_fill index_put index_select inner
instance_norm inverse isclose isfinite isin isinf isnan isneginf isposinf isreal kron kthvalue
layer_norm ldexp le leaky_relu lerp less less_equal lgamma lift_fresh_copy linalg_inv
linalg_matmul linalg_norm linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid
log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit
logspace logsumexp lstm lstm_cell lt mH mT masked_fill masked_scatter matmul matrix_H matrix_exp
matrix_power max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
maximum mean median meshgrid min minimum mish mm moveaxis movedim mul multiply mv
nan_to_num nanmean nansum narrow native_batch_norm native_dropout
native_group_norm native_layer_norm native_norm ne neg negative new_full new_ones new_zeros norm
not_equal numpy_T one_hot ones ones_like outer pad pairwise_distance permute pixel_shuffle
pixel_unshuffle polar polygamma positive pow prelu prod rad2deg rand rand_like randn randn_like
ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder
renorm repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape
reshape_as resolve_conj resolve_neg rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell roll
rot90 round rsqrt rsub scalar_tensor scaled_dot_product_attention scatter scatter_add
scatter_reduce searchsorted select select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh
slice slice_scatter softmax softplus softshrink sort special_erf special_erfinv special_exp2
special_expit special_expm1 special_i0 special_log1p special_log_softmax special_logit
special_logsumexp special_ndtr special_round special_sinc special_softmax special_xlogy split
split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims
sym_numel sym_size t take_along_dim tan tanh tensor_split tensordot threshold tile to topk trace
transpose trapezoid tril triu true_divide trunc type_as unbind unflatten unfold unsafe_chunk
unsafe_split unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
var var_mean vdot view view_as view_as_complex view_as_real vstack where xlogy zero zeros zeros_like
"""

ATEN = frozenset(_NAMES.split())
