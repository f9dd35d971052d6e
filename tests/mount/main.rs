//! A real mount, used as QEMU, cp and people use it.

mod errors;
mod files;
mod host;
mod names;
