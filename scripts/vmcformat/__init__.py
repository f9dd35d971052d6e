"""The vmcryptfs on-disk format, a second time.

Written from docs/FORMAT.md alone, so that a slip in the Rust code and a slip here do not coincide. Section numbers in
comments are those of FORMAT.md. Nothing here is tuned for speed and nothing knows of the mount.
"""
