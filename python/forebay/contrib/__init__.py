"""forebay among many workers: ``dask``, ``ray`` and ``torchrun``. Each imports what it is for."""
