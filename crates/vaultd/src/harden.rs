//! What this process takes from itself before it reads a key: core dumps, tracing, privileges.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use crate::said::Said;

/// Lock everything only where the limit leaves room for any vault's memory: a locked process that meets its limit can't
/// allocate any more.
const ROOM: u64 = 2 << 30;

/// No core dump, no tracing by programs of the same user (prctl(2), `PR_SET_DUMPABLE`: `/proc/PID` belongs to root from now
/// on), no new privileges. Answers whether all memory is locked.
///
/// # Errors
/// The kernel refuses one of the first three; a vault is then not opened.
pub fn harden() -> Result<bool, Said> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    // Before exec we could not be spared by the kernel's killer; the value may only be lowered with a privilege.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-500");
    let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    Ok(limit >= ROOM && mlockall(all).is_ok())
}
