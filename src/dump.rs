//! Encrypted dumps of the processes that had data of guests in memory (docs/DUMPS.md): encrypted when they are taken, to a
//! key whose private half only a key provider opens.

pub mod stream;
