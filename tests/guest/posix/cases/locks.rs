//! Locks between processes: byte ranges of processes and of descriptions, and whole files.

use std::os::fd::AsRawFd as _;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::{Signal, kill_process};

use crate::files::{answer, open, write};
use crate::people::{Flag, child};
use crate::said::{Result, Said, name};

cases![
    exclusive_conflicts,
    shared_locks_agree,
    shared_and_exclusive,
    own_locks_do_not_conflict,
    ranges,
    to_the_end,
    a_hole_in_a_range,
    converted,
    asked_for,
    asked_for_a_free_range,
    released_by_closing_any_descriptor,
    released_at_exit,
    released_by_a_kill,
    not_inherited,
    waiting,
    a_wait_interrupted,
    deadlock,
    a_lock_without_the_right_to_write,
    relative_to_the_end,
    a_negative_range,
    of_a_description,
    of_a_description_between_opens,
    of_a_description_outlives_closing_another,
    whole_file_exclusive,
    whole_file_shared,
    whole_file_between_opens,
    whole_file_through_a_duplicate,
    whole_file_converted,
    whole_file_waiting,
    whole_file_released_at_exit,
    whole_file_on_a_read_only_descriptor,
    whole_file_of_a_folder,
    on_an_unlinked_file,
    many_ranges,
];

fn call(file: impl AsFd, command: i32, kind: i32, start: i64, length: i64) -> Result<libc::flock> {
    // SAFETY: a plain structure of numbers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(kind).unwrap_or(-1);
    lock.l_whence = 0;
    (lock.l_start, lock.l_len) = (start, length);
    // SAFETY: the command takes a pointer to such a structure, which outlives the call.
    answer(unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut lock) })?;
    Ok(lock)
}

/// Locks without waiting.
fn lock(file: impl AsFd, kind: i32, start: i64, length: i64) -> Result {
    call(file, libc::F_SETLK, kind, start, length).map(drop)
}

/// A new open file description of the case's file, which is made if need be.
fn file() -> Result<OwnedFd> {
    open("file", OFlags::RDWR | OFlags::CREATE)
}

/// Whether another process gets that lock.
fn elsewhere(said: &mut Said, key: &str, kind: i32, start: i64, length: i64) {
    let result = child(|said| {
        said.tried("lock", lock(file()?, kind, start, length));
        Ok(())
    });
    said.show(key, result.wait());
}

const READ: i32 = libc::F_RDLCK;
const WRITE: i32 = libc::F_WRLCK;
const NONE: i32 = libc::F_UNLCK;

fn exclusive_conflicts(said: &mut Said) -> Result {
    let held = file()?;
    said.tried("own", lock(&held, WRITE, 0, 0));
    elsewhere(said, "write", WRITE, 0, 0);
    elsewhere(said, "read", READ, 0, 0);
    said.tried("unlock", lock(&held, NONE, 0, 0));
    elsewhere(said, "free", WRITE, 0, 0);
    Ok(())
}

fn shared_locks_agree(said: &mut Said) -> Result {
    let held = file()?;
    said.tried("own", lock(&held, READ, 0, 0));
    elsewhere(said, "read", READ, 0, 0);
    Ok(())
}

fn shared_and_exclusive(said: &mut Said) -> Result {
    let held = file()?;
    said.tried("own", lock(&held, READ, 0, 0));
    elsewhere(said, "write", WRITE, 0, 0);
    Ok(())
}

fn own_locks_do_not_conflict(said: &mut Said) -> Result {
    let (first, second) = (file()?, file()?);
    said.tried("first", lock(&first, WRITE, 0, 10));
    said.tried("second", lock(&second, WRITE, 0, 10));
    Ok(())
}

fn ranges(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 10, 10)?;
    for (key, start, length) in
        [("before", 0, 10), ("touching", 0, 11), ("inside", 15, 1), ("last", 19, 5), ("after", 20, 5)]
    {
        elsewhere(said, key, WRITE, start, length);
    }
    Ok(())
}

fn to_the_end(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 100, 0)?;
    elsewhere(said, "below", WRITE, 0, 100);
    elsewhere(said, "far", WRITE, 1 << 40, 1);
    elsewhere(said, "last-byte", WRITE, i64::MAX, 1);
    Ok(())
}

fn a_hole_in_a_range(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 0, 30)?;
    lock(&held, NONE, 10, 10)?;
    for (key, start) in [("first", 0), ("hole", 10), ("second", 20)] {
        elsewhere(said, key, WRITE, start, 10);
    }
    Ok(())
}

fn converted(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 0, 30)?;
    said.tried("part", lock(&held, READ, 10, 10));
    for (key, start) in [("first", 0), ("shared", 10), ("second", 20)] {
        elsewhere(said, key, READ, start, 10);
    }
    Ok(())
}

fn asked_for(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 5, 7)?;
    let holder = std::process::id();
    said.show(
        "child",
        child(|said| {
            let found = call(file()?, libc::F_GETLK, WRITE, 0, 0)?;
            said.show("kind", i32::from(found.l_type) == WRITE);
            said.show("range", format!("{}+{}", found.l_start, found.l_len));
            said.show("holder", u32::try_from(found.l_pid) == Ok(holder));
            Ok(())
        })
        .wait(),
    );
    Ok(())
}

fn asked_for_a_free_range(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 5, 7)?;
    said.show(
        "child",
        child(|said| {
            let found = call(file()?, libc::F_GETLK, WRITE, 100, 7)?;
            said.show("free", i32::from(found.l_type) == NONE);
            Ok(())
        })
        .wait(),
    );
    Ok(())
}

fn released_by_closing_any_descriptor(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 0, 0)?;
    drop(file()?);
    elsewhere(said, "other", WRITE, 0, 0);
    Ok(())
}

fn released_at_exit(said: &mut Said) -> Result {
    said.show(
        "child",
        child(|said| {
            let held = file()?;
            said.tried("lock", lock(&held, WRITE, 0, 0));
            std::mem::forget(held);
            Ok(())
        })
        .wait(),
    );
    said.tried("free", lock(file()?, WRITE, 0, 0));
    Ok(())
}

/// A process that does what `body` says, raises a flag, and then waits for its end.
fn holder(body: impl FnOnce() -> Result) -> Result<crate::people::Child> {
    let flag = Flag::new()?;
    let process = child(|said| {
        let result = body();
        said.tried("held", result);
        flag.raise()?;
        // SAFETY: waits for a signal; the case's own end kills this process too late to matter, the parent sooner.
        unsafe { libc::pause() };
        Ok(())
    });
    flag.wait()?;
    Ok(process)
}

fn end(process: crate::people::Child) -> Result {
    kill_process(process.pid(), Signal::KILL)?;
    process.wait();
    Ok(())
}

fn released_by_a_kill(said: &mut Said) -> Result {
    let process = holder(|| {
        let held = file()?;
        lock(&held, WRITE, 0, 0)?;
        std::mem::forget(held);
        Ok(())
    })?;
    let other = file()?;
    said.tried("held", lock(&other, WRITE, 0, 0));
    end(process)?;
    said.tried("free", lock(&other, WRITE, 0, 0));
    Ok(())
}

fn not_inherited(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 0, 0)?;
    said.show(
        "child",
        child(|said| {
            said.tried("lock", lock(&held, WRITE, 0, 0));
            Ok(())
        })
        .wait(),
    );
    Ok(())
}

/// A process that waits for what this one holds until this one lets go. Whether it has begun to wait cannot be seen from
/// outside, but an early grant shows: the waiter would end before the flag is raised.
fn granted_after(said: &mut Said, wait: impl FnOnce() -> Result, release: impl FnOnce() -> Result) -> Result {
    let released = Flag::new()?;
    let began = Flag::new()?;
    let waiter = child(|said| {
        began.raise()?;
        wait()?;
        said.show("released-before", released.is_raised()?);
        Ok(())
    });
    began.wait()?;
    crate::files::later();
    released.raise()?;
    release()?;
    said.show("waiter", waiter.wait());
    Ok(())
}

fn waiting(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 0, 0)?;
    granted_after(said, || call(file()?, libc::F_SETLKW, WRITE, 0, 0).map(drop), || lock(&held, NONE, 0, 0))
}

/// A signal whose handler does nothing, so that it interrupts what waits.
fn interrupt_me() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a plain structure; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
}

fn a_wait_interrupted(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 0, 0)?;
    let began = Flag::new()?;
    let waiter = child(|said| {
        interrupt_me();
        began.raise()?;
        said.tried("wait", call(file()?, libc::F_SETLKW, WRITE, 0, 0));
        Ok(())
    });
    began.wait()?;
    // The signal may come before the wait: it is sent until the waiter has ended.
    let pid = waiter.pid();
    let nagger = child(|_| {
        loop {
            crate::files::later();
            kill_process(pid, Signal::USR1)?;
        }
    });
    said.show("waiter", waiter.wait());
    end(nagger)?;
    lock(&held, NONE, 0, 0)?;
    elsewhere(said, "afterwards", WRITE, 0, 0);
    Ok(())
}

/// Two processes that wait for each other: one of them is refused.
fn deadlock(said: &mut Said) -> Result {
    let held = file()?;
    lock(&held, WRITE, 0, 1)?;
    let began = Flag::new()?;
    let other = child(|said| {
        let file = file()?;
        lock(&file, WRITE, 1, 1)?;
        began.raise()?;
        let result = call(&file, libc::F_SETLKW, WRITE, 0, 1).map(drop);
        said.tried("wait", result);
        Ok(())
    });
    began.wait()?;
    let result = call(&held, libc::F_SETLKW, WRITE, 1, 1).map(drop);
    lock(&held, NONE, 0, 0)?;
    let other = other.wait();
    let refused = usize::from(result.is_err()) + usize::from(other != "wait=ok");
    said.show("refused", refused);
    said.show("reason", result.err().map_or(other, |error| name(error.raw_os_error())).replace("wait=", ""));
    Ok(())
}

fn a_lock_without_the_right_to_write(said: &mut Said) -> Result {
    write("file", "")?;
    let reader = open("file", OFlags::RDONLY)?;
    said.tried("exclusive", lock(&reader, WRITE, 0, 0));
    said.tried("shared", lock(&reader, READ, 0, 0));
    let writer = open("file", OFlags::WRONLY)?;
    said.tried("shared-for-writing", lock(&writer, READ, 0, 0));
    Ok(())
}

fn relative_to_the_end(said: &mut Said) -> Result {
    write("file", [0; 100])?;
    let held = file()?;
    // SAFETY: a plain structure of numbers.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = i16::try_from(WRITE).unwrap_or(-1);
    range.l_whence = i16::try_from(libc::SEEK_END).unwrap_or(-1);
    (range.l_start, range.l_len) = (-10, 5);
    // SAFETY: the structure outlives the call.
    said.tried("lock", answer(unsafe { libc::fcntl(held.as_raw_fd(), libc::F_SETLK, &raw mut range) }));
    elsewhere(said, "inside", WRITE, 92, 1);
    elsewhere(said, "after", WRITE, 95, 1);
    Ok(())
}

fn a_negative_range(said: &mut Said) -> Result {
    let held = file()?;
    said.tried("backwards", lock(&held, WRITE, 10, -5));
    elsewhere(said, "inside", WRITE, 7, 1);
    elsewhere(said, "start", WRITE, 10, 1);
    said.tried("below-zero", lock(&held, WRITE, 2, -5));
    Ok(())
}

fn of_a_description(said: &mut Said) -> Result {
    let held = file()?;
    said.tried("own", call(&held, libc::F_OFD_SETLK, WRITE, 0, 0));
    said.show(
        "child",
        child(|said| {
            said.tried("inherited", call(&held, libc::F_OFD_SETLK, WRITE, 0, 0));
            said.tried("other", call(file()?, libc::F_OFD_SETLK, WRITE, 0, 0));
            said.tried("process", lock(file()?, WRITE, 0, 0));
            Ok(())
        })
        .wait(),
    );
    Ok(())
}

fn of_a_description_between_opens(said: &mut Said) -> Result {
    let (first, second) = (file()?, file()?);
    said.tried("first", call(&first, libc::F_OFD_SETLK, WRITE, 0, 10));
    said.tried("second", call(&second, libc::F_OFD_SETLK, WRITE, 5, 10));
    said.tried("elsewhere", call(&second, libc::F_OFD_SETLK, WRITE, 10, 10));
    Ok(())
}

fn of_a_description_outlives_closing_another(said: &mut Said) -> Result {
    let held = file()?;
    call(&held, libc::F_OFD_SETLK, WRITE, 0, 0)?;
    drop(file()?);
    said.tried("other", call(file()?, libc::F_OFD_SETLK, WRITE, 0, 0));
    drop(held);
    said.tried("free", call(file()?, libc::F_OFD_SETLK, WRITE, 0, 0));
    Ok(())
}

/// Whether another process gets the whole file.
fn flock_elsewhere(said: &mut Said, key: &str, operation: FlockOperation) {
    let result = child(|said| {
        said.tried("lock", flock(file()?, operation));
        Ok(())
    });
    said.show(key, result.wait());
}

const EXCLUSIVE: FlockOperation = FlockOperation::NonBlockingLockExclusive;
const SHARED: FlockOperation = FlockOperation::NonBlockingLockShared;

fn whole_file_exclusive(said: &mut Said) -> Result {
    let held = file()?;
    said.tried("own", flock(&held, EXCLUSIVE));
    flock_elsewhere(said, "exclusive", EXCLUSIVE);
    flock_elsewhere(said, "shared", SHARED);
    said.tried("unlock", flock(&held, FlockOperation::Unlock));
    flock_elsewhere(said, "free", EXCLUSIVE);
    Ok(())
}

fn whole_file_shared(said: &mut Said) -> Result {
    let held = file()?;
    said.tried("own", flock(&held, SHARED));
    flock_elsewhere(said, "shared", SHARED);
    flock_elsewhere(said, "exclusive", EXCLUSIVE);
    Ok(())
}

fn whole_file_between_opens(said: &mut Said) -> Result {
    let (first, second) = (file()?, file()?);
    said.tried("first", flock(&first, EXCLUSIVE));
    said.tried("second", flock(&second, EXCLUSIVE));
    drop(first);
    said.tried("free", flock(&second, EXCLUSIVE));
    Ok(())
}

fn whole_file_through_a_duplicate(said: &mut Said) -> Result {
    let held = file()?;
    flock(&held, EXCLUSIVE)?;
    let other = rustix::io::dup(&held)?;
    drop(held);
    flock_elsewhere(said, "held", EXCLUSIVE);
    said.tried("unlock", flock(&other, FlockOperation::Unlock));
    flock_elsewhere(said, "free", EXCLUSIVE);
    Ok(())
}

fn whole_file_converted(said: &mut Said) -> Result {
    let held = file()?;
    flock(&held, EXCLUSIVE)?;
    said.tried("down", flock(&held, SHARED));
    flock_elsewhere(said, "shared", SHARED);
    said.tried("up", flock(&held, EXCLUSIVE));
    flock_elsewhere(said, "refused", SHARED);
    Ok(())
}

fn whole_file_waiting(said: &mut Said) -> Result {
    let held = file()?;
    flock(&held, EXCLUSIVE)?;
    granted_after(said, || flock(file()?, FlockOperation::LockExclusive), || flock(&held, FlockOperation::Unlock))
}

fn whole_file_released_at_exit(said: &mut Said) -> Result {
    let process = holder(|| {
        let held = file()?;
        flock(&held, EXCLUSIVE)?;
        std::mem::forget(held);
        Ok(())
    })?;
    let other = file()?;
    said.tried("held", flock(&other, EXCLUSIVE));
    end(process)?;
    said.tried("free", flock(&other, EXCLUSIVE));
    Ok(())
}

fn whole_file_on_a_read_only_descriptor(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("exclusive", flock(open("file", OFlags::RDONLY)?, EXCLUSIVE));
    said.tried("shared", flock(open("file", OFlags::WRONLY)?, SHARED));
    Ok(())
}

fn whole_file_of_a_folder(said: &mut Said) -> Result {
    let folder = || open(".", OFlags::RDONLY | OFlags::DIRECTORY);
    let held = folder()?;
    said.tried("own", flock(&held, EXCLUSIVE));
    said.tried("other", flock(folder()?, EXCLUSIVE));
    Ok(())
}

fn on_an_unlinked_file(said: &mut Said) -> Result {
    let held = file()?;
    rustix::fs::unlink("file")?;
    said.tried("range", lock(&held, WRITE, 0, 0));
    said.tried("whole", flock(&held, EXCLUSIVE));
    said.tried("unlock", lock(&held, NONE, 0, 0));
    Ok(())
}

fn many_ranges(said: &mut Said) -> Result {
    let held = file()?;
    for number in 0..200 {
        lock(&held, WRITE, number * 2, 1)?;
    }
    elsewhere(said, "even", WRITE, 100, 1);
    elsewhere(said, "odd", WRITE, 101, 1);
    lock(&held, NONE, 0, 0)?;
    elsewhere(said, "all", WRITE, 0, 0);
    Ok(())
}
