"""What is deployed: libraries for C programs, which need neither Python nor PyTorch nor TVM.

*What* is exported is a `Deployable`: the calls of kernels, the arena, weights, test vectors. *How*
it is written is another matter: as object files here; whoever writes it in another form uses the
same header, test vectors, manifest and checks.
"""
