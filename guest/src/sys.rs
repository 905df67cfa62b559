//! The system calls of the agent, each behind a function that names the step it failed in.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::raw::{c_char, c_int, c_ulong, c_void};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::io::{AsRawFd, FromRawFd, RawFd};
use std::path::Path;

/// What failed and why: "mount /proc: No such device (os error 19)".
#[derive(Debug)]
pub struct Error {
    pub step: String,
    pub cause: io::Error,
}

pub type Result<T> = std::result::Result<T, Error>;

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.step, self.cause)
    }
}

impl Error {
    pub fn new(step: impl Into<String>, cause: io::Error) -> Error {
        Error { step: step.into(), cause }
    }

    pub fn errno(step: impl Into<String>, errno: c_int) -> Error {
        Error::new(step, io::Error::from_raw_os_error(errno))
    }
}

pub fn is(cause: &io::Error, errno: c_int) -> bool {
    cause.raw_os_error() == Some(errno)
}

/// Turns the -1 of a system call into its error.
pub fn check(result: impl Into<i64>) -> io::Result<i64> {
    match result.into() {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

pub trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: impl Into<String>) -> Result<T> {
        self.map_err(|cause| Error::new(step, cause))
    }
}

pub fn c_string(text: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(text.as_ref()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn c_path(path: &Path) -> io::Result<CString> {
    c_string(path.as_os_str().as_bytes())
}

/// Takes ownership of a descriptor that a system call has just made.
pub fn owned(fd: i64) -> File {
    unsafe { File::from_raw_fd(fd as RawFd) }
}

pub fn mount(source: &str, target: &str, kind: &str, flags: c_ulong, data: &str) -> Result<()> {
    let call = || -> io::Result<()> {
        let (source, target) = (c_string(source)?, c_string(target)?);
        let (kind, data) = (c_string(kind)?, c_string(data)?);
        let data = data.as_ptr() as *const c_void;
        check(unsafe {
            libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data)
        })?;
        Ok(())
    };
    call().step(format!("mount {kind} {source} on {target}"))
}

pub fn mkdir(path: &str, mode: u32) -> Result<()> {
    let call = || check(unsafe { libc::mkdir(c_string(path)?.as_ptr(), mode) });
    match call() {
        Err(cause) if !is(&cause, libc::EEXIST) => Err(Error::new(format!("mkdir {path}"), cause)),
        _ => Ok(()),
    }
}

pub fn mkdir_at(directory: &File, name: &str, mode: u32) -> io::Result<()> {
    let name = c_string(name)?;
    check(unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), mode) })?;
    // The mode above is subject to the umask and lacks the sticky bit on some file systems.
    check(unsafe { libc::fchmodat(directory.as_raw_fd(), name.as_ptr(), mode, 0) })?;
    Ok(())
}

pub fn unlink_at(directory: &File, name: &str) -> io::Result<()> {
    let name = c_string(name)?;
    check(unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) })?;
    Ok(())
}

pub fn open_at(directory: &File, name: &str, flags: c_int, mode: u32) -> io::Result<File> {
    let name = c_string(name)?;
    let flags = flags | libc::O_CLOEXEC;
    check(unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags, mode) }).map(owned)
}

/// struct open_how of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_IN_ROOT: u64 = 0x10;

/// Opens `path` as a process whose root is `root` would: no link of an image leads out of it.
pub fn open_in_root(root: &File, path: &str, flags: c_int) -> io::Result<File> {
    let path = c_string(path)?;
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    let size = std::mem::size_of::<OpenHow>();
    check(unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &how as *const _, size)
    })
    .map(owned)
}

pub fn open_directory(path: &str) -> Result<File> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    c_string(path)
        .and_then(|path| check(unsafe { libc::open(path.as_ptr(), flags) }))
        .map(owned)
        .step(format!("open {path}"))
}

pub fn pipe() -> io::Result<(File, File)> {
    let mut ends: [c_int; 2] = [0; 2];
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((owned(ends[0].into()), owned(ends[1].into())))
}

pub fn set_nonblocking(file: &File) -> io::Result<()> {
    let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    let flags = flags as c_int | libc::O_NONBLOCK;
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) })?;
    Ok(())
}

pub fn load_module(path: &Path) -> Result<()> {
    let step = || format!("load {}", path.display());
    let file = File::open(path).step(step())?;
    let arguments = b"\0".as_ptr() as *const c_char;
    let call = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), arguments, 0) };
    match check(call) {
        Err(cause) if !is(&cause, libc::EEXIST) => Err(Error::new(step(), cause)),
        _ => Ok(()),
    }
}

pub fn unlink(path: &Path) -> io::Result<()> {
    check(unsafe { libc::unlink(c_path(path)?.as_ptr()) }).map(|_| ())
}

pub fn set_hostname(name: &str) -> Result<()> {
    check(unsafe { libc::sethostname(name.as_ptr() as *const c_char, name.len()) })
        .map(|_| ())
        .step("sethostname")
}

pub fn kill(pid: i32, signal: c_int) -> io::Result<()> {
    check(unsafe { libc::kill(pid, signal) }).map(|_| ())
}

/// A new process: the child gets 0. The agent has one thread, so the child may do anything.
pub fn clone(namespaces: c_int) -> io::Result<i32> {
    let flags = (namespaces | libc::SIGCHLD) as c_ulong;
    check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) }).map(|pid| pid as i32)
}

pub fn setns(file: &File, kind: c_int) -> io::Result<()> {
    check(unsafe { libc::setns(file.as_raw_fd(), kind) }).map(|_| ())
}

pub fn seconds_and_nanos(clock: libc::clockid_t) -> (i64, i64) {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(clock, &mut time) };
    (time.tv_sec, time.tv_nsec)
}

/// Milliseconds of the monotonic clock, for deadlines.
pub fn now() -> i64 {
    let (seconds, nanos) = seconds_and_nanos(libc::CLOCK_MONOTONIC);
    seconds * 1000 + nanos / 1_000_000
}

/// A file of at most `limit` bytes; a longer one is an error, never a cut one.
pub fn read_bounded(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut out)?;
    if out.len() as u64 > limit {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(out)
}

pub struct Epoll(File);

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(|fd| Epoll(owned(fd)))
    }

    pub fn add(&self, fd: RawFd, token: u64, events: c_int) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        let (epoll, add) = (self.0.as_raw_fd(), libc::EPOLL_CTL_ADD);
        check(unsafe { libc::epoll_ctl(epoll, add, fd, &mut event) }).map(|_| ())
    }

    pub fn remove(&self, fd: RawFd) {
        let nothing = std::ptr::null_mut();
        unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, nothing) };
    }

    /// Waits for events; `timeout` in milliseconds, -1 for ever. Yields (token, events).
    pub fn wait(&self, timeout: c_int) -> io::Result<Vec<(u64, c_int)>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 16, timeout) };
        match check(count) {
            Ok(count) => {
                Ok(events[..count as usize].iter().map(|e| (e.u64, e.events as c_int)).collect())
            }
            Err(cause) if is(&cause, libc::EINTR) => Ok(Vec::new()),
            Err(cause) => Err(cause),
        }
    }
}

/// Blocks the given signals and returns the descriptor on which they arrive instead.
pub fn signal_file(signals: &[c_int]) -> io::Result<File> {
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)).map(owned)
    }
}
