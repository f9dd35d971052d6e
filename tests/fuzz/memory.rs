//! The memory that readers of bytes from outside may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Address space of this process, in bytes: far more than the readers need, far less than a length from outside can ask for.
const MEMORY: u64 = 3 << 30;

/// Memory that is asked for without a bound ends the process, and so fails the test.
pub(crate) fn bound_memory() {
    let maximum = getrlimit(Resource::As).maximum;
    setrlimit(Resource::As, Rlimit { current: Some(maximum.map_or(MEMORY, |most| most.min(MEMORY))), maximum })
        .unwrap();
}
