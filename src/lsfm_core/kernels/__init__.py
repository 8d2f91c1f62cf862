"""Loops over voxels, compiled: arrays in, arrays out, and nothing else.

To import this package costs nothing, but each of its modules imports numba, which takes some tenths of a second. The first call
with a type of voxels compiles for it, which takes seconds, once: what was compiled is kept beside the source or, where that cannot
be written, in the user's cache folder (``NUMBA_CACHE_DIR`` names another). So import modules where they are called. All loops run
without the interpreter's lock.

Inside: `warp` interpolation through affines and displacement fields; `points` fields, and their inverses, at points; `blocks` what
becomes one voxel; `digits` numbers as text; `_compiled` how loops are compiled.
"""
