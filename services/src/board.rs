//! Boards that only a daemon reaches: what they need is not linked with the program of mounts.

pub mod etcd;
