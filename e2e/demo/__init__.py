"""`make demo`: a trace of real requests through three pools that follow its demand."""
