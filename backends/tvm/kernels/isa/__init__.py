"""The instructions that kernels are made of, by family of CPUs."""
