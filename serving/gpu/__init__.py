"""One GPU: its memory, its streams, and functions compiled for it. Knows numba.cuda, and neither steps nor graphs.

It is imported only for servables with `[instances] kind = "gpu"`. `device` finds a GPU and compiles for it, `memory`
holds tensors there, `streams` bring arrays there while it computes, `gauges` tell what it is doing. With
NUMBA_ENABLE_CUDASIM=1 all of it runs in numba's simulator, on the CPU, one thread after another: for tests and trials.
"""
