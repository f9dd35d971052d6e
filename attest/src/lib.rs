//! What a TPM says of a host, judged without any I/O of its own.
#![forbid(unsafe_code)]
