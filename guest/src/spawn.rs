//! Starting a process in a container: a new one, or the one that runs already.
//!
//! A container is the set of namespaces (mount, pid, ipc, cgroup) held by its first process:
//! the application, or a holder where nobody started an application (a build MicroVM).

use crate::boot::CGROUP;
use crate::credentials;
use crate::json::Value;
use crate::mounts;
use crate::sys::{self, Error, Result, Step};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::raw::c_char;
use std::os::unix::io::{AsRawFd, RawFd};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const NEW_CONTAINER: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC;
const FAILED: i32 = 127;

/// The shells of an image, the best first; images may have a PATH without either directory.
const SHELLS: [&str; 4] = ["bash", "/bin/bash", "sh", "/bin/sh"];

/// What to run, as the node says it.
pub struct Command {
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub all_capabilities: bool,
    /// What else to run, each by its name alone, where `argv` cannot be run.
    pub otherwise: &'static [&'static str],
    /// A program that is open already and that answers to the last name, when nothing else runs.
    pub last_resort: Option<RawFd>,
}

/// What a process beside the application has in common with it.
#[derive(Clone)]
pub struct Surroundings {
    pub env: Vec<String>,
    pub cwd: String,
    pub all_capabilities: bool,
}

impl Command {
    /// `None` if a member is missing or of another type.
    pub fn from_json(request: &Value, defaults: &[String]) -> Option<Command> {
        let argv = request.texts("argv")?;
        if argv.is_empty() || argv[0].is_empty() {
            return None;
        }
        let mut env = defaults.to_vec();
        for entry in request.texts("env")? {
            let (name, _) = entry.split_once('=')?;
            let prefix = format!("{name}=");
            env.retain(|old| !old.starts_with(&prefix));
            env.push(entry);
        }
        Some(Command {
            argv,
            env,
            cwd: request.text("cwd").filter(|cwd| !cwd.is_empty()).unwrap_or("/").to_string(),
            user: request.text("user").unwrap_or("").to_string(),
            all_capabilities: request.text("capabilities") == Some("all"),
            otherwise: &[],
            last_resort: None,
        })
    }

    /// A shell of the superuser; `builtin` is one that no image has to bring along.
    pub fn shell(surroundings: Surroundings, builtin: Option<RawFd>) -> Command {
        let Surroundings { mut env, cwd, all_capabilities } = surroundings;
        env.retain(|entry| !entry.starts_with("TERM="));
        let mut command = Command {
            argv: vec![SHELLS[0].to_string()],
            env,
            cwd,
            user: String::new(),
            all_capabilities,
            otherwise: &SHELLS[1..],
            last_resort: builtin,
        };
        // Recorded: the prompt of the real service. An image's own start-up files win.
        command.default("PS1", "λ $ ");
        command
    }

    pub fn surroundings(&self) -> Surroundings {
        let (env, cwd) = (self.env.clone(), self.cwd.clone());
        Surroundings { env, cwd, all_capabilities: self.all_capabilities }
    }

    fn default(&mut self, name: &str, value: &str) {
        if !self.env.iter().any(|entry| entry.starts_with(&format!("{name}="))) {
            self.env.push(format!("{name}={value}"));
        }
    }
}

/// The standard streams of a process.
pub enum Streams {
    Pipes {
        input: Option<File>,
        output: File,
        error: File,
    },
    /// The slave side of a terminal, which becomes the controlling one.
    Terminal(File),
}

/// The namespaces of a running container, by its first process.
pub struct Container {
    pid: File,
    mount: File,
    ipc: File,
    cgroup: File,
}

impl Container {
    pub fn of(first: i32) -> Result<Container> {
        let open = |kind: &str| {
            let path = format!("/proc/{first}/ns/{kind}");
            File::open(&path).step(format!("open {path}"))
        };
        Ok(Container {
            pid: open("pid")?,
            mount: open("mnt")?,
            ipc: open("ipc")?,
            cgroup: open("cgroup")?,
        })
    }
}

/// A process on its way: `status` ends empty when it runs, or with why it does not.
pub struct Started {
    pub pid: i32,
    pub status: File,
}

/// Starts `command` as the first process of a new container.
pub fn first(command: Command, streams: Streams) -> Result<Started> {
    start(NEW_CONTAINER, streams, |streams| {
        enter_new(command.all_capabilities)?;
        execute(command, streams)
    })
}

/// Starts a process that only holds a container and reaps what is left to it.
pub fn holder(all_capabilities: bool) -> Result<Started> {
    let null = || fs::OpenOptions::new().read(true).write(true).open("/dev/null").step("open null");
    let streams = Streams::Pipes { input: None, output: null()?, error: null()? };
    start(NEW_CONTAINER, streams, |streams| {
        enter_new(all_capabilities)?;
        attach(&streams)?;
        unsafe {
            // Children are reaped by the kernel; all descriptors go, the status pipe with them.
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
            loop {
                libc::pause();
            }
        }
    })
}

/// Starts `command` beside the first process of a container.
pub fn beside(container: &Container, command: Command, streams: Streams) -> Result<Started> {
    let own = File::open("/proc/self/ns/pid").step("open the own pid namespace")?;
    sys::setns(&container.pid, libc::CLONE_NEWPID).step("setns pid")?;
    let started = start(0, streams, |streams| {
        join_cgroup()?;
        sys::setns(&container.cgroup, libc::CLONE_NEWCGROUP).step("setns cgroup")?;
        sys::setns(&container.ipc, libc::CLONE_NEWIPC).step("setns ipc")?;
        sys::setns(&container.mount, libc::CLONE_NEWNS).step("setns mount")?;
        execute(command, streams)
    });
    sys::setns(&own, libc::CLONE_NEWPID).step("setns back")?;
    started
}

fn start(
    namespaces: i32,
    streams: Streams,
    child: impl FnOnce(Streams) -> Result<()>,
) -> Result<Started> {
    let (status, report) = sys::pipe().step("pipe")?;
    sys::set_nonblocking(&status).step("set the status pipe non-blocking")?;
    let pid = sys::clone(namespaces).step("clone")?;
    if pid == 0 {
        if let Err(error) = child(streams) {
            let _ = (&report).write_all(error.to_string().as_bytes());
        }
        unsafe { libc::_exit(FAILED) };
    }
    Ok(Started { pid, status })
}

fn join_cgroup() -> Result<()> {
    fs::write(format!("{CGROUP}/cgroup.procs"), "0").step("enter the control group")
}

fn enter_new(all_capabilities: bool) -> Result<()> {
    join_cgroup()?;
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }).step("unshare cgroup")?;
    mounts::enter(all_capabilities)
}

fn attach(streams: &Streams) -> Result<()> {
    sys::check(unsafe { libc::setsid() }).step("setsid")?;
    let null;
    let (input, output, error) = match streams {
        Streams::Terminal(slave) => {
            sys::check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })
                .step("take the terminal")?;
            (slave, slave, slave)
        }
        Streams::Pipes { input, output, error } => {
            null = File::open("/dev/null").step("open /dev/null")?;
            (input.as_ref().unwrap_or(&null), output, error)
        }
    };
    for (file, fd) in [(input, 0), (output, 1), (error, 2)] {
        sys::check(unsafe { libc::dup2(file.as_raw_fd(), fd) }).step("dup2")?;
    }
    Ok(())
}

/// Ignored and blocked signals outlive exec: the application starts with neither.
fn reset_signals() {
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::umask(0o022);
    }
}

fn execute(mut command: Command, streams: Streams) -> Result<()> {
    let user = credentials::resolve(&command.user)?;
    attach(&streams)?;
    command.default("PATH", DEFAULT_PATH);
    command.default("HOME", &user.home);
    if let Streams::Terminal(slave) = &streams {
        command.default("TERM", "xterm");
        sys::check(unsafe { libc::fchown(slave.as_raw_fd(), user.uid, u32::MAX) })
            .step("fchown")?;
    }
    if std::env::set_current_dir(&command.cwd).is_err() {
        // As runtimes do: a working directory that is not there is made.
        fs::create_dir_all(&command.cwd).step(format!("make {}", command.cwd))?;
        std::env::set_current_dir(&command.cwd).step(format!("enter {}", command.cwd))?;
    }
    reset_signals();
    credentials::become_user(&user, command.all_capabilities)?;
    replace_process(&command)
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

fn replace_process(command: &Command) -> Result<()> {
    let env = texts(&command.env).step("env")?;
    let reason = run_found(&command.argv, command, &env)?;
    for name in command.otherwise {
        run_found(&[name.to_string()], command, &env)?;
    }
    if let Some(program) = command.last_resort {
        run_open(program, command.otherwise.last().copied().unwrap_or(""), &env)?;
    }
    Err(Error::new(format!("run {}", command.argv[0]), reason))
}

fn texts(list: &[String]) -> std::io::Result<Vec<CString>> {
    list.iter().map(sys::c_string).collect()
}

/// Runs a program by an open file, in a container whose file systems do not hold it.
fn run_open(program: RawFd, name: &str, env: &[CString]) -> Result<()> {
    let argv = texts(&[name.to_string()]).step("argv")?;
    let nothing = b"\0".as_ptr();
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            nothing,
            pointers(&argv).as_ptr(),
            pointers(env).as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Ok(())
}

/// Runs `argv` where PATH finds it; why it cannot be run, if so.
fn run_found(argv: &[String], command: &Command, env: &[CString]) -> Result<std::io::Error> {
    let name = &argv[0];
    let argv = texts(argv).step("argv")?;
    let (argv_pointers, env_pointers) = (pointers(&argv), pointers(env));
    let mut candidates = Vec::new();
    if name.contains('/') {
        candidates.push(name.clone());
    } else {
        let path = command.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        for directory in path.unwrap_or(DEFAULT_PATH).split(':') {
            let directory = if directory.is_empty() { "." } else { directory };
            candidates.push(format!("{directory}/{name}"));
        }
    }
    let mut reason = std::io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates {
        let path = sys::c_string(&candidate).step("argv")?;
        unsafe { libc::execve(path.as_ptr(), argv_pointers.as_ptr(), env_pointers.as_ptr()) };
        let cause = std::io::Error::last_os_error();
        if !sys::is(&cause, libc::ENOENT) && !sys::is(&cause, libc::ENOTDIR) {
            // A file that is there and cannot be run says more than a later "not found".
            reason = cause;
        }
    }
    Ok(reason)
}
