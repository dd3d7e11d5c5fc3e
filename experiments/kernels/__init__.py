"""What compilers make of the Triton kernels (``aot``, ``specs``) and what bounds their time
(``traffic``, ``report``). None of it needs a GPU."""
