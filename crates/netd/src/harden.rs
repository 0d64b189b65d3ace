//! What this process takes from itself: it speaks with a guest that may be hostile, and with the world.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    path_beneath_rules,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};

/// Bytes of memory for all connections; a guest that wants more gets none.
const MEMORY: u64 = 512 << 20;
/// Connections and pairs, each a descriptor.
const FILES: u64 = 2048;
/// What getaddrinfo(3) reads. No home, no runtime folder, no /proc: nothing of the person's, and no other process.
const READ: [&str; 9] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/run/systemd",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
    "/dev/null",
];

/// No core dump, no tracing by programs of the same user, no new privileges, little memory; and, where the kernel has Landlock,
/// files to read that resolving names takes, and none to write. Answers whether it has. Call it before any thread is started.
///
/// # Errors
/// The kernel refuses one of the former.
pub fn early() -> io::Result<bool> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    let limit = |what, wanted: u64| {
        let most = getrlimit(what).maximum.unwrap_or(u64::MAX).min(wanted);
        setrlimit(what, Rlimit { current: Some(most), maximum: Some(most) })
    };
    limit(Resource::Data, MEMORY)?;
    limit(Resource::Nofile, FILES)?;
    let ruled = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI::V3))?
            .create()?
            .add_rules(path_beneath_rules(READ, AccessFs::from_read(ABI::V3)))?
            .restrict_self()
    };
    Ok(ruled().is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced))
}

/// From now on: no program, process or thread is started, no other process is looked into, no Unix socket is made (so that
/// neither the agent nor a vault can be reached), no kernel part that a network has no use for. Call it once all threads run.
///
/// # Errors
/// The kernel has no seccomp.
pub fn late() -> io::Result<()> {
    let refused = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_clone,
        libc::SYS_clone3,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_kill,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_socketpair,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = refused.into_iter().map(|number| (number, Vec::new())).collect();
    let family = |number: libc::c_int| {
        let wanted = u64::try_from(number).unwrap_or(0);
        SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, wanted)?])
    };
    let families = [libc::AF_UNIX, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, libc::AF_BLUETOOTH];
    let families = families.into_iter().map(family).collect::<Result<_, _>>().map_err(io::Error::other)?;
    rules.insert(libc::SYS_socket, families);
    let errno = u32::try_from(libc::EACCES).unwrap_or(1);
    let machine = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), machine);
    let program: seccompiler::BpfProgram = filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
    apply_filter_all_threads(&program).map_err(io::Error::other)
}
