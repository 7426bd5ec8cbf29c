"""The steps of first_run.py. What the driver imports of it, steps, journal, report and pages, needs no torch: whatever
can hang, crash or poison a process is worker.py's, in processes of its own."""
