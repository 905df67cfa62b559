//! What the node may ask for: one function per operation.

use crate::agent::{Agent, Shutdown, VERSION};
use crate::connections;
use crate::exec::{self, Session, MAX_SESSIONS};
use crate::hooks::{self, Hook};
use crate::identity;
use crate::json::{self, object, Value};
use crate::net;
use crate::spawn::{Command, Streams};
use crate::sys::{self, Step};
use std::fs;
use std::os::unix::io::AsRawFd;

const MAX_TIMEOUT_MS: i64 = 3_600_000;

type Failure = (&'static str, String);

fn bad(message: &str) -> Failure {
    ("bad_request", message.to_string())
}

fn failed(error: sys::Error) -> Failure {
    ("failed", error.to_string())
}

impl Agent {
    pub(crate) fn request(&mut self, id: u32, payload: &[u8]) {
        let request = match json::parse(payload) {
            Some(request) => request,
            None => return self.refuse(id, "bad_request", "the request is no JSON"),
        };
        // `Ok(None)`: the answer comes later.
        let outcome = match request.text("op").unwrap_or("") {
            "restored" => self.restored(&request).map(Some),
            "hook" => self.hook(id, &request).map(|()| None),
            "listening" => self.listening().map(Some),
            "exec" => self.exec(id, &request).map(|()| None),
            "shell" => self.shell(id, &request).map(|()| None),
            "resize" => self.resize(&request).map(Some),
            "signal" => self.signal(&request).map(Some),
            "start" => self.start(id, &request).map(|()| None),
            "configure" => self.configure(&request).map(Some),
            "sync" => self.sync(),
            "drain" => self.drain(),
            "quiesce" => self.drain().and_then(|_| self.sync()),
            "info" => self.info().map(Some),
            "shutdown" => self.begin_shutdown(id, &request).map(|()| None),
            other => Err(("unknown_op", format!("no operation {other:?}"))),
        };
        match outcome {
            Ok(Some(result)) => self.reply(id, result),
            Ok(None) => {}
            Err((code, message)) => self.refuse(id, code, &message),
        }
    }

    fn sync(&self) -> Result<Option<Value>, Failure> {
        unsafe { libc::sync() };
        Ok(Some(object([])))
    }

    /// What the application has written so far goes out before the answer does.
    fn drain(&mut self) -> Result<Option<Value>, Failure> {
        self.pump_logs();
        Ok(Some(object([])))
    }

    fn assume_identity(&mut self, request: &Value) -> Result<(), Failure> {
        let hostname = request.text("hostname").filter(|name| identity::valid_hostname(name));
        let machine_id = request.text("machineId").filter(|id| identity::valid_machine_id(id));
        let boot_id = request.text("bootId");
        if !boot_id.map_or(true, identity::valid_boot_id) {
            return Err(bad("bootId is malformed"));
        }
        match (hostname, machine_id) {
            (Some(hostname), Some(machine_id)) => {
                self.identity.assume(hostname, machine_id, boot_id).map_err(failed)
            }
            _ => Err(bad("hostname or machineId is missing or malformed")),
        }
    }

    fn configure(&mut self, request: &Value) -> Result<Value, Failure> {
        self.environment = request.texts("env").ok_or_else(|| bad("env is no list of texts"))?;
        let nanos = request.integer("unixNanos").ok_or_else(|| bad("unixNanos is missing"))?;
        identity::set_clock(nanos).map_err(failed)?;
        self.assume_identity(request)?;
        Ok(object([]))
    }

    /// Everything that makes a clone itself, in one round trip. The order matters: ids are
    /// drawn from randomness that is fresh already.
    fn restored(&mut self, request: &Value) -> Result<Value, Failure> {
        let nanos = request.integer("unixNanos").ok_or_else(|| bad("unixNanos is missing"))?;
        let seed = request.text("seed").and_then(identity::base64);
        let seed = seed.ok_or_else(|| bad("seed is missing or no base64"))?;
        identity::set_clock(nanos).map_err(failed)?;
        self.identity.reseed(&seed).map_err(failed)?;
        self.assume_identity(request)?;
        if request.flag("endConnections") {
            // Not worth failing a resume for: without it they end by their own timers.
            let _ = connections::cut();
        }
        let (hostname, machine_id, boot_id) = self.identity.read_back().map_err(failed)?;
        let sample = self.identity.sample().map_err(|error| ("failed", error.to_string()))?;
        Ok(object([
            ("unixNanos", identity::unix_nanos().into()),
            ("hostname", hostname.into()),
            ("machineId", machine_id.into()),
            ("bootId", boot_id.into()),
            ("sample", sample.into()),
        ]))
    }

    fn require_root(&self) -> Result<(), Failure> {
        self.root.as_ref().map(|_| ()).map_err(|error| ("no_root", error.to_string()))
    }

    fn command(&self, request: &Value) -> Result<Command, Failure> {
        self.require_root()?;
        Command::from_json(request, &self.environment)
            .ok_or_else(|| bad("argv, env, cwd or user is malformed"))
    }

    fn start(&mut self, id: u32, request: &Value) -> Result<(), Failure> {
        let command = self.command(request)?;
        if self.application.alive() {
            return Err(("busy", "the application runs already".to_string()));
        }
        let started = self.application.start(command).map_err(failed)?;
        self.watch_logs();
        self.watch_start(id, started, None);
        Ok(())
    }

    fn hook(&mut self, id: u32, request: &Value) -> Result<(), Failure> {
        let name = request.text("name").filter(|name| hooks::valid_name(name));
        let port = request.integer("port").and_then(|port| u16::try_from(port).ok());
        let timeout = request.integer("timeoutMs").filter(|ms| (1..=MAX_TIMEOUT_MS).contains(ms));
        let body = request.text("body");
        match (name, port, timeout) {
            (Some(name), Some(port), Some(timeout)) if port > 0 => {
                let hook = Hook::new(id, name, port, body, sys::now() + timeout);
                self.call_hook(id, hook);
                Ok(())
            }
            _ => Err(bad("name, port or timeoutMs is missing or out of range")),
        }
    }

    fn listening(&mut self) -> Result<Value, Failure> {
        let ports = net::listening().map_err(failed)?;
        // A frame holds more than 10 000 ports; whoever opens all of them gets the lowest.
        let ports = ports.into_iter().take(8192).map(|port| Value::Integer(port.into()));
        Ok(object([("ports", Value::List(ports.collect()))]))
    }

    fn exec(&mut self, id: u32, request: &Value) -> Result<(), Failure> {
        let command = self.command(request)?;
        self.open_session(id, command, request.flag("tty"), size(request))
    }

    fn shell(&mut self, id: u32, request: &Value) -> Result<(), Failure> {
        self.require_root()?;
        let surroundings = self.application.surroundings(&self.environment);
        let command = Command::shell(surroundings, self.shell.as_ref().map(AsRawFd::as_raw_fd));
        self.open_session(id, command, true, size(request))
    }

    fn open_session(
        &mut self,
        id: u32,
        command: Command,
        tty: bool,
        (rows, cols): (u16, u16),
    ) -> Result<(), Failure> {
        if id & exec::ERROR_BIT != 0 || self.sessions.contains_key(&id) {
            return Err(bad("the stream id is taken or too large"));
        }
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(("busy", format!("{MAX_SESSIONS} sessions are open")));
        }
        let (streams, input, outputs) = if tty {
            let (master, slave) = exec::open_terminal(rows, cols).map_err(failed)?;
            let input = master.try_clone().step("dup").map_err(failed)?;
            (Streams::Terminal(slave), input, vec![master])
        } else {
            let pipe = || sys::pipe().step("pipe").map_err(failed);
            let ((stdin, input), (output, stdout), (error, stderr)) = (pipe()?, pipe()?, pipe()?);
            (
                Streams::Pipes { input: Some(stdin), output: stdout, error: stderr },
                input,
                vec![output, error],
            )
        };
        let session = Session::new(id, tty, input, outputs, &Agent::session_tokens(id));
        let mut session = session.step("open a session").map_err(failed)?;
        let started = self.application.beside(command, streams).map_err(failed)?;
        session.pid = started.pid;
        self.sessions.insert(id, session);
        self.watch_start(id, started, Some(id));
        Ok(())
    }

    fn session_of(&self, request: &Value) -> Result<&Session, Failure> {
        let id = request.integer("stream").and_then(|id| u32::try_from(id).ok());
        id.and_then(|id| self.sessions.get(&id))
            .ok_or_else(|| ("not_found", "no such exec stream".to_string()))
    }

    fn resize(&mut self, request: &Value) -> Result<Value, Failure> {
        let (rows, cols) = size(request);
        let terminal = self.session_of(request)?.terminal();
        let terminal = terminal.ok_or_else(|| bad("the stream has no terminal"))?;
        exec::resize(terminal, rows, cols).step("resize").map_err(failed)?;
        Ok(object([]))
    }

    fn signal(&mut self, request: &Value) -> Result<Value, Failure> {
        let number = request.integer("signal").filter(|number| (1..=64).contains(number));
        let number = number.ok_or_else(|| bad("signal is missing or out of range"))?;
        let pid = match request.get("stream") {
            None | Some(Value::Null) => self.application.pid,
            Some(_) => self.session_of(request)?.pid,
        };
        if pid <= 0 {
            return Err(("not_found", "the application does not run".to_string()));
        }
        sys::kill(pid, number as i32).step("kill").map_err(failed)?;
        Ok(object([]))
    }

    fn info(&mut self) -> Result<Value, Failure> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim_end().to_string();
        let (state, exit) = self.application.describe();
        let (uptime, _) = sys::seconds_and_nanos(libc::CLOCK_BOOTTIME);
        let processors = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
        let memory = read("/proc/meminfo");
        let kib = |name: &str| {
            let line = memory.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number.and_then(|number| number.parse::<i64>().ok()).map_or(Value::Null, Value::from)
        };
        Ok(object([
            ("agent", VERSION.into()),
            ("kernel", read("/proc/sys/kernel/osrelease").into()),
            ("uptimeSeconds", uptime.into()),
            ("agentCpuMicros", cpu_micros().into()),
            ("processors", Value::Integer(processors)),
            ("memoryTotalKiB", kib("MemTotal:")),
            ("memoryAvailableKiB", kib("MemAvailable:")),
            ("state", state),
            ("exit", exit),
            ("pid", self.application.pid.into()),
            ("sessions", Value::Integer(self.sessions.len() as i64)),
        ]))
    }

    fn begin_shutdown(&mut self, id: u32, request: &Value) -> Result<(), Failure> {
        let grace = request.integer("graceMs").filter(|ms| (0..=MAX_TIMEOUT_MS).contains(ms));
        let grace = grace.ok_or_else(|| bad("graceMs is missing or out of range"))?;
        if self.shutdown.is_some() {
            return Err(("busy", "the guest shuts down already".to_string()));
        }
        let (deadline, power_off) = (sys::now() + grace, request.flag("powerOff"));
        self.shutdown = Some(Shutdown { request_id: id, deadline, power_off, forced: false });
        if self.application.alive() {
            let _ = sys::kill(self.application.pid, libc::SIGTERM);
        } else {
            self.finish_shutdown();
        }
        Ok(())
    }

    /// The application has ended, by itself or by force: the rest goes, and the disk is whole.
    pub(crate) fn finish_shutdown(&mut self) {
        let shutdown = match self.shutdown.take() {
            Some(shutdown) => shutdown,
            None => return,
        };
        self.application.end_holder();
        unsafe { libc::sync() };
        let (_, exit) = self.application.describe();
        self.reply(
            shutdown.request_id,
            object([("exit", exit), ("forced", shutdown.forced.into())]),
        );
        if shutdown.power_off {
            self.flush();
            unsafe { libc::reboot(libc::RB_AUTOBOOT) };
        }
    }
}

/// Processor time that the agent itself has used.
fn cpu_micros() -> i64 {
    let (seconds, nanos) = sys::seconds_and_nanos(libc::CLOCK_PROCESS_CPUTIME_ID);
    seconds * 1_000_000 + nanos / 1000
}

fn size(request: &Value) -> (u16, u16) {
    let side = |name| request.integer(name).and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
    (side("rows"), side("cols"))
}
