//! The agent's loop: the channel to the node, the processes, the hooks, and who gets which event.

use crate::app::{self, Application, Exit, State};
use crate::boot::Booted;
use crate::channel::Channel;
use crate::exec::{Session, Tokens};
use crate::frames::{Frame, Kind, Parser};
use crate::hooks::{Hook, Outcome};
use crate::identity::Identity;
use crate::json::{object, Value};
use crate::outbox::Outbox;
use crate::spawn;
use crate::sys::{self, Epoll, Result, Step};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::io::AsRawFd;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");
const READ: usize = 32 * 1024;
const CHANGES: i32 = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET;

/// What a watched descriptor is; the low half of a token names which one.
#[derive(Clone, Copy)]
enum Source {
    Port = 1,
    Signals,
    Log,
    Status,
    Hook,
    Input,
    Output,
    Error,
}

fn token(source: Source, id: u32) -> u64 {
    (source as u64) << 32 | u64::from(id)
}

/// A process that has been cloned and not yet said whether it runs.
struct Starting {
    pid: i32,
    status: File,
    /// `None` when the node that asked is gone: its answer would be taken for another's.
    request_id: Option<u32>,
    /// The exec session, or `None` for the application.
    session: Option<u32>,
}

pub struct Shutdown {
    pub request_id: u32,
    pub deadline: i64,
    pub power_off: bool,
    pub forced: bool,
}

pub struct Agent {
    pub(crate) epoll: Epoll,
    channel: Channel,
    signals: File,
    parser: Parser,
    pub(crate) outbox: Outbox,
    /// A node has said HELLO and has not gone since.
    connected: bool,
    readable: bool,
    /// On the heap and kept: a buffer on the stack would be cleared, and so copied, each time.
    buffer: Vec<u8>,
    pub(crate) root: Result<()>,
    pub(crate) shell: Option<File>,
    pub(crate) identity: Identity,
    pub(crate) application: Application,
    pub(crate) sessions: BTreeMap<u32, Session>,
    hooks: Vec<Hook>,
    starting: BTreeMap<u32, Starting>,
    last_start: u32,
    pub(crate) environment: Vec<String>,
    pub(crate) shutdown: Option<Shutdown>,
}

impl Agent {
    pub fn new(booted: Booted) -> Result<Agent> {
        let epoll = Epoll::new().step("epoll")?;
        let signals = sys::signal_file(&[libc::SIGCHLD]).step("signalfd")?;
        // Writing to a pipe or socket whose reader is gone must be an error, not the end.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        // Edge-triggered: without a node the port is in hang-up all the time, and only the
        // change to connected wakes the agent.
        epoll
            .add(booted.channel.watched(), token(Source::Port, 0), CHANGES)
            .step("watch the channel")?;
        epoll
            .add(signals.as_raw_fd(), token(Source::Signals, 0), libc::EPOLLIN)
            .step("watch signals")?;
        Ok(Agent {
            epoll,
            channel: booted.channel,
            signals,
            parser: Parser::default(),
            outbox: Outbox::default(),
            connected: false,
            readable: true,
            buffer: vec![0; READ],
            root: booted.root,
            shell: booted.shell,
            identity: Identity::new()?,
            application: Application::new(),
            sessions: BTreeMap::new(),
            hooks: Vec::new(),
            starting: BTreeMap::new(),
            last_start: 0,
            environment: Vec::new(),
            shutdown: None,
        })
    }

    pub fn run(&mut self) -> Result<()> {
        loop {
            self.serve_port();
            let events = self.epoll.wait(self.timeout()).step("epoll_wait")?;
            for (token, _) in events {
                self.dispatch(token);
            }
            self.expire();
        }
    }

    fn dispatch(&mut self, token: u64) {
        let id = token as u32;
        match token >> 32 {
            source if source == Source::Port as u64 => self.readable = true,
            source if source == Source::Signals as u64 => self.reap(),
            source if source == Source::Log as u64 => self.pump_log(id as usize),
            source if source == Source::Status as u64 => self.started(id),
            source if source == Source::Hook as u64 => self.advance_hook(id),
            source if source == Source::Input as u64 => self.pump_input(id),
            _ => self.pump_session(id),
        }
    }

    fn timeout(&self) -> i32 {
        let hooks = self.hooks.iter().map(|hook| hook.deadline);
        let shutdown = self.shutdown.iter().filter(|s| !s.forced).map(|s| s.deadline);
        match hooks.chain(shutdown).min() {
            Some(deadline) => (deadline - sys::now()).clamp(0, 60_000) as i32,
            None => -1,
        }
    }

    // The port.

    fn serve_port(&mut self) {
        let mut bytes = std::mem::take(&mut self.buffer);
        self.exchange(&mut bytes);
        self.buffer = bytes;
    }

    fn exchange(&mut self, bytes: &mut [u8]) {
        loop {
            if self.connected && !self.outbox.is_empty() && self.outbox.flush(&self.channel).is_err()
            {
                self.node_left();
            }
            if let Some(fd) = self.channel.accept() {
                let _ = self.epoll.add(fd, token(Source::Port, 0), CHANGES);
            }
            if !self.readable || self.outbox.congested() {
                return;
            }
            match (&self.channel).read(bytes) {
                Ok(0) => self.node_left(),
                Ok(count) => {
                    self.parser.feed(&bytes[..count]);
                    while let Some(frame) = self.parser.next_frame() {
                        self.receive(frame);
                    }
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.readable = false,
            }
        }
    }

    /// A read of nothing: no node is connected. The next one wakes the port; where it comes by a
    /// connection of its own, that may be waiting already.
    fn node_left(&mut self) {
        self.readable = self.channel.hang_up();
        self.connected = false;
        self.parser.reset();
        self.outbox.forget_control();
    }

    fn receive(&mut self, frame: Frame) {
        match frame.kind {
            Kind::Hello => self.greet(&frame),
            _ if !self.connected => {}
            Kind::Request => self.request(frame.stream, &frame.payload),
            Kind::Data => self.take_input(frame.stream, &frame.payload),
            Kind::Window => self.take_credit(frame.stream, &frame.payload),
            Kind::Close => self.close_session(frame.stream),
            Kind::HelloAck | Kind::Reply | Kind::Log | Kind::Event => {}
        }
    }

    fn greet(&mut self, frame: &Frame) {
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.close_session(id);
        }
        let hello = crate::json::parse(&frame.payload).unwrap_or(Value::Null);
        let nonce = hello.text("nonce").unwrap_or("").to_string();
        // Answers to requests of an older conversation would be taken for answers to new ones.
        for hook in self.hooks.drain(..) {
            self.epoll.remove(hook.fd());
        }
        for starting in self.starting.values_mut() {
            starting.request_id = None;
        }
        self.shutdown = None;
        let (state, exit) = self.application.describe();
        let answer = object([
            ("nonce", nonce.into()),
            ("agent", VERSION.into()),
            ("state", state),
            ("exit", exit),
        ]);
        self.connected = true;
        self.outbox.restart(frame.stream, &answer.encode());
    }

    pub(crate) fn control(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        if self.connected {
            self.outbox.control(kind, stream, payload);
        }
    }

    pub(crate) fn reply(&mut self, request_id: u32, result: Value) {
        self.control(Kind::Reply, request_id, &object([("result", result)]).encode());
    }

    pub(crate) fn refuse(&mut self, request_id: u32, code: &str, message: &str) {
        let failure = object([("code", code.into()), ("message", message.into())]);
        self.control(Kind::Reply, request_id, &object([("failure", failure)]).encode());
    }

    /// Sends what waits, for the last words before power-off.
    pub(crate) fn flush(&mut self) {
        let _ = self.outbox.flush(&self.channel);
    }

    // Processes.

    pub(crate) fn watch_start(
        &mut self,
        request_id: u32,
        started: spawn::Started,
        session: Option<u32>,
    ) {
        self.last_start = self.last_start.wrapping_add(1);
        let token = token(Source::Status, self.last_start);
        let _ = self.epoll.add(started.status.as_raw_fd(), token, libc::EPOLLIN);
        let (pid, status) = (started.pid, started.status);
        let starting = Starting { pid, status, request_id: Some(request_id), session };
        self.starting.insert(self.last_start, starting);
    }

    pub(crate) fn watch_logs(&mut self) {
        for (index, log) in self.application.logs.iter().enumerate() {
            if let Some(file) = log {
                let token = token(Source::Log, index as u32);
                let _ = self.epoll.add(file.as_raw_fd(), token, libc::EPOLLIN);
            }
        }
    }

    pub(crate) fn session_tokens(id: u32) -> Tokens {
        Tokens {
            input: token(Source::Input, id),
            output: token(Source::Output, id),
            error: token(Source::Error, id),
        }
    }

    /// A status pipe has spoken: the process runs, or says why not.
    fn started(&mut self, serial: u32) {
        let starting = match self.starting.remove(&serial) {
            Some(starting) => starting,
            None => return,
        };
        self.epoll.remove(starting.status.as_raw_fd());
        let failure = app::failure(&starting.status);
        match (&failure, starting.session) {
            (Some(_), Some(id)) => self.forget_session(id),
            (Some(_), None) => {}
            (None, Some(id)) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.watch_outputs(&self.epoll);
                }
            }
            (None, None) => self.application.confirm(),
        }
        match (starting.request_id, failure) {
            (Some(id), Some(reason)) => self.refuse(id, "start_failed", &reason),
            (Some(id), None) => self.reply(id, object([("pid", starting.pid.into())])),
            (None, _) => {}
        }
    }

    fn reap(&mut self) {
        let mut information = [0u8; 128];
        while matches!((&self.signals).read(&mut information), Ok(count) if count > 0) {}
        loop {
            let mut status = 0;
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            self.process_ended(pid, Exit::from_wait(status));
        }
    }

    fn process_ended(&mut self, pid: i32, exit: Exit) {
        let starting = self.starting.iter().find(|(_, s)| s.pid == pid).map(|(serial, _)| *serial);
        if let Some(serial) = starting {
            self.started(serial);
        }
        if pid == self.application.pid {
            self.application_ended(exit);
        } else if self.application.holds(pid) {
            self.application.holder_ended();
        } else if let Some(session) = self.sessions.values_mut().find(|s| s.pid == pid) {
            session.exit = Some((exit.code, exit.signal));
            let id = session.id;
            self.pump_session(id);
        }
    }

    fn application_ended(&mut self, exit: Exit) {
        // The first process of a pid namespace is the last to go: both pipes end here.
        self.pump_logs();
        let ran = self.application.state == State::Running;
        self.application.ended(exit);
        if ran {
            let [code, signal] = exit.members();
            let event = object([("event", "exited".into()), code, signal]);
            self.control(Kind::Event, 0, &event.encode());
        }
        self.finish_shutdown();
    }

    /// All that the application has written so far: a pipe holds no more than one pump takes.
    pub(crate) fn pump_logs(&mut self) {
        for index in 0..2 {
            self.pump_log(index);
        }
    }

    pub(crate) fn pump_log(&mut self, index: usize) {
        let outbox = &mut self.outbox;
        let more = self.application.pump_log(index, |bytes| outbox.log(index as u32 + 1, bytes));
        if !more {
            if let Some(file) = self.application.logs[index].take() {
                self.epoll.remove(file.as_raw_fd());
            }
        }
    }

    // Exec sessions.

    fn take_input(&mut self, id: u32, bytes: &[u8]) {
        let accepted = self.sessions.get_mut(&id).map(|session| session.push_input(bytes));
        match accepted {
            Some(true) => self.pump_input(id),
            Some(false) => self.close_session(id),
            None => {}
        }
    }

    fn pump_input(&mut self, id: u32) {
        let written = match self.sessions.get_mut(&id) {
            Some(session) => session.pump_input(&self.epoll),
            None => return,
        };
        if written > 0 {
            self.control(Kind::Window, id, &(written as u32).to_le_bytes());
        }
    }

    fn take_credit(&mut self, stream: u32, payload: &[u8]) {
        let id = stream & !crate::exec::ERROR_BIT;
        if let (Ok(bytes), Some(session)) = (payload.try_into(), self.sessions.get_mut(&id)) {
            session.grant(stream, u32::from_le_bytes(bytes));
            self.pump_session(id);
        }
    }

    fn pump_session(&mut self, id: u32) {
        let session = match self.sessions.get_mut(&id) {
            Some(session) => session,
            None => return,
        };
        let (outbox, connected) = (&mut self.outbox, self.connected);
        session.pump_outputs(&self.epoll, |stream, bytes| {
            if connected {
                outbox.control(Kind::Data, stream, bytes);
            }
        });
        if session.finished() {
            let exit = session.exit.unwrap_or((None, None));
            self.forget_session(id);
            let end = object([("code", exit.0.into()), ("signal", exit.1.into())]);
            self.control(Kind::Close, id, &end.encode());
        }
    }

    /// Ends a session whose node does not want it any more.
    fn close_session(&mut self, id: u32) {
        if let Some(session) = self.sessions.get(&id) {
            session.hang_up();
            self.forget_session(id);
        }
    }

    fn forget_session(&mut self, id: u32) {
        if let Some(mut session) = self.sessions.remove(&id) {
            // Not left to close(2): a child that has not run exec yet shares the descriptors.
            session.unwatch(&self.epoll);
        }
    }

    // Hooks and other deadlines.

    pub(crate) fn call_hook(&mut self, request_id: u32, hook: std::result::Result<Hook, Outcome>) {
        match hook {
            Ok(hook) => {
                self.watch_hook(&hook);
                self.hooks.push(hook);
            }
            Err(outcome) => self.reply(request_id, outcome.to_json()),
        }
    }

    fn watch_hook(&self, hook: &Hook) {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET;
        let _ = self.epoll.add(hook.fd(), token(Source::Hook, hook.request_id), events);
    }

    fn advance_hook(&mut self, request_id: u32) {
        let place = match self.hooks.iter().position(|hook| hook.request_id == request_id) {
            Some(place) => place,
            None => return,
        };
        let outcome = self.hooks[place].advance();
        if outcome == Some(Outcome::Refused) && self.hooks[place].try_next_address() {
            self.watch_hook(&self.hooks[place]);
        } else if let Some(outcome) = outcome {
            self.hooks.remove(place);
            self.reply(request_id, outcome.to_json());
        }
    }

    fn expire(&mut self) {
        let now = sys::now();
        while let Some(place) = self.hooks.iter().position(|hook| hook.deadline <= now) {
            let hook = self.hooks.remove(place);
            self.reply(hook.request_id, hook.expired().to_json());
        }
        if let Some(shutdown) = self.shutdown.as_mut().filter(|s| !s.forced && s.deadline <= now) {
            shutdown.forced = true;
            let _ = sys::kill(self.application.pid, libc::SIGKILL);
        }
    }
}
