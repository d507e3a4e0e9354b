//! The system calls of a daemon that serves.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What happens at a system call outside the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Syscalls {
    /// The process is killed by SIGSYS: nothing unforeseen goes on, and the guest's devices are gone.
    Kill,
    /// It fails with `EPERM`: nothing unforeseen happens, and the guest's devices stay.
    #[default]
    Deny,
    /// It is carried out, and the kernel's audit log tells of it.
    Log,
    /// Every call is allowed.
    Any,
}

/// Calls that are allowed whatever their arguments: file service, memory, threads, events, and messages on sockets that are
/// connected or bound already.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // Files by descriptor.
    libc::SYS_read, libc::SYS_pread64, libc::SYS_readv, libc::SYS_preadv, libc::SYS_preadv2,
    libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev, libc::SYS_pwritev2,
    libc::SYS_lseek, libc::SYS_close, libc::SYS_close_range, libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_getdents64,
    libc::SYS_fchmod, libc::SYS_fchown, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_sync_file_range, libc::SYS_syncfs, libc::SYS_fadvise64, libc::SYS_readahead, libc::SYS_copy_file_range,
    libc::SYS_flock, libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fgetxattr, libc::SYS_fsetxattr,
    libc::SYS_flistxattr, libc::SYS_fremovexattr, libc::SYS_memfd_create,
    // Files by name.
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_faccessat,
    libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_symlinkat, libc::SYS_linkat,
    libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_fchownat,
    libc::SYS_utimensat, libc::SYS_truncate, libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_setxattr,
    libc::SYS_lsetxattr, libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_removexattr, libc::SYS_lremovexattr,
    libc::SYS_getcwd, libc::SYS_name_to_handle_at, libc::SYS_umask,
    // Memory.
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_brk, libc::SYS_membarrier,
    // Threads, time and identity.
    libc::SYS_clone3, libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_gettid, libc::SYS_getpid, libc::SYS_tgkill,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack, libc::SYS_restart_syscall,
    libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday,
    libc::SYS_getrandom, libc::SYS_getrlimit, libc::SYS_prlimit64, libc::SYS_sysinfo, libc::SYS_uname, libc::SYS_getuid,
    libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getgroups, libc::SYS_setgroups, libc::SYS_setfsuid,
    libc::SYS_setfsgid, libc::SYS_capget, libc::SYS_getcpu,
    // Events.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_ppoll, libc::SYS_eventfd2,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_pipe2,
    // Sockets; new ones are for the service manager and name services alone.
    libc::SYS_accept4, libc::SYS_accept, libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_recvfrom, libc::SYS_sendto,
    libc::SYS_shutdown, libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_connect, libc::SYS_socketpair,
];

/// Calls that only older architectures have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_unlink, libc::SYS_mkdir,
    libc::SYS_rmdir, libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_time, libc::SYS_getdents,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Restricts all threads.
pub(super) fn restrict(syscalls: Syscalls) -> Result<(), String> {
    let program = program(syscalls)?;
    seccompiler::apply_filter_all_threads(&program).map_err(|cause| cause.to_string())
}

fn program(syscalls: Syscalls) -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    let with = |rules: Result<Vec<SeccompRule>, seccompiler::BackendError>| rules.map_err(|cause| cause.to_string());
    // No memory becomes code.
    let not_executable = || with([bits(2, libc::PROT_EXEC, 0)].into_iter().collect());
    rules.insert(libc::SYS_mprotect, not_executable()?);
    rules.insert(libc::SYS_mmap, not_executable()?);
    // Threads, no processes.
    rules.insert(libc::SYS_clone, with([bits(0, libc::CLONE_THREAD, libc::CLONE_THREAD)].into_iter().collect())?);
    rules.insert(libc::SYS_socket, with([equal(0, libc::AF_UNIX)].into_iter().collect())?);
    rules.insert(libc::SYS_prctl, with([equal(0, libc::PR_SET_NAME)].into_iter().collect())?);
    let requests = [FIONBIO, FIOCLEX].map(|request| equal64(1, request));
    rules.insert(libc::SYS_ioctl, with(requests.into_iter().collect())?);
    let otherwise = match syscalls {
        Syscalls::Kill => SeccompAction::KillProcess,
        Syscalls::Deny => SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1)),
        Syscalls::Log => SeccompAction::Log,
        Syscalls::Any => SeccompAction::Allow,
    };
    let architecture = std::env::consts::ARCH.try_into().map_err(|cause| format!("{cause:?}"))?;
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, architecture)
        .and_then(TryInto::try_into)
        .map_err(|cause: seccompiler::BackendError| cause.to_string())
}

const FIONBIO: u64 = libc::FIONBIO;
const FIOCLEX: u64 = libc::FIOCLEX;

type Rule = Result<SeccompRule, seccompiler::BackendError>;

/// Argument `index` equals `value`.
fn equal(index: u8, value: libc::c_int) -> Rule {
    equal64(index, u64::try_from(value).unwrap_or(u64::MAX))
}

fn equal64(index: u8, value: u64) -> Rule {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
    SeccompRule::new(vec![condition])
}

/// The bits `mask` of argument `index` are `value`.
fn bits(index: u8, mask: libc::c_int, value: libc::c_int) -> Rule {
    let wide = |bits: libc::c_int| u64::try_from(bits).unwrap_or(0);
    let compare = SeccompCmpOp::MaskedEq(wide(mask));
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, compare, wide(value))?;
    SeccompRule::new(vec![condition])
}

impl FromStr for Syscalls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kill" => Ok(Self::Kill),
            "deny" => Ok(Self::Deny),
            "log" => Ok(Self::Log),
            "none" => Ok(Self::Any),
            _ => Err(format!("{text} is unknown; choose kill, deny, log or none")),
        }
    }
}

impl fmt::Display for Syscalls {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Kill => "kill",
            Self::Deny => "deny",
            Self::Log => "log",
            Self::Any => "none",
        })
    }
}
