"""The pipeline: jobs go in, outcomes come out; alone, overlapped, in batches, on Dask."""
