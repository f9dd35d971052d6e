//! Settings that a process with keys makes for itself.

#![allow(unsafe_code, reason = "prctl, setrlimit, setsid and signal have no safe form in std")]

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::check;

/// No core dump of this process is written, and no process of the same user may read its memory.
///
/// # Errors
/// The system's; it does not happen on Linux.
pub fn forbid_dumps() -> io::Result<()> {
    // SAFETY: takes two plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0_u64, 0_u64, 0_u64, 0_u64) })?;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) }).map(drop)
}

/// Raises the soft limit on open files to the hard one and returns it: a datastore may have thousands of disks open.
///
/// # Errors
/// The system's.
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives both calls.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
    }
    Ok(limit.rlim_cur)
}

/// The soft limit on open files.
pub fn file_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Makes `command` run in a session of its own, so that it outlives the terminal it was started from.
pub fn detach(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes one async-signal-safe call and touches no memory.
    unsafe { command.pre_exec(|| check(libc::setsid()).map(drop)) }
}

/// The name of this host.
pub fn host_name() -> OsString {
    OsString::from_vec(rustix::system::uname().nodename().to_bytes().to_vec())
}

/// Effective user id of this process.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Groups of another process or thread, beside the one that it makes files with.
///
/// # Errors
/// The system's; `NotFound` when it has ended.
pub fn groups_of(pid: u32) -> io::Result<Vec<u32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    Ok(groups.split_whitespace().filter_map(|group| group.parse().ok()).collect())
}

/// Waits until the process at the other side of a stream, which it has closed, has closed its other files too, and has ended.
pub fn wait_for_closed_peer(stream: &UnixStream, limit: Duration) {
    let pid = rustix::net::sockopt::socket_peercred(stream).map(|peer| peer.pid);
    let process = pid.and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
    // An error says that it is gone, or that it cannot be waited for.
    if let (Ok(process), Ok(limit)) = (process, Timespec::try_from(limit)) {
        let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit));
    }
}

/// The process that made the other side of a stream, if it is stopped (SIGSTOP, or a debugger).
pub fn stopped_peer(stream: &UnixStream) -> Option<i32> {
    let pid = rustix::net::sockopt::socket_peercred(stream).ok()?.pid.as_raw_nonzero().get();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses, and may have any characters.
    let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    matches!(state, 'T' | 't').then_some(pid)
}

/// Makes modes of new files exactly what is requested; callers of a mount have masks of their own.
pub fn clear_umask() {
    rustix::process::umask(rustix::fs::Mode::empty());
}

/// Makes this process, and those that it starts, ignore signals.
pub fn ignore_signals(signals: &[i32]) {
    for &signal in signals {
        // SAFETY: no handler is installed; for a number that is not a signal, or one that cannot be ignored, nothing is done.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Makes this process one of the last that are killed when memory runs out, and lets it get memory without waiting for writes that it
/// has to serve itself: guests have their disks from it.
///
/// # Errors
/// The system's; an ordinary user may do neither.
pub fn stay_alive() -> io::Result<()> {
    const SCORE: &str = "/proc/self/oom_score_adj";
    const LATE: i32 = -900;
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: takes plain numbers.
    let flusher = check(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1_u64, 0_u64, 0_u64, 0_u64) });
    let is_later = std::fs::read_to_string(SCORE)?.trim().parse().is_ok_and(|score: i32| score <= LATE);
    if !is_later {
        std::fs::write(SCORE, LATE.to_string())?;
    }
    flusher.map(drop)
}
