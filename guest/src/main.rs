//! microvmd-agent: the first process of a MicroVM.
//!
//! It boots the guest from its initramfs, then serves the node over a virtio-serial port or vsock:
//! starts and watches the application, calls its lifecycle hooks, runs further processes beside
//! it, and makes every clone of a snapshot itself. One thread, one loop: after a restore each
//! page that is touched is a page that the clone does not share.

mod agent;
mod app;
mod boot;
mod channel;
mod connections;
mod credentials;
mod exec;
mod frames;
mod hooks;
mod identity;
mod json;
mod mounts;
mod net;
mod outbox;
mod requests;
mod spawn;
mod sys;

use std::io::{self, Read, Write};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--decode-frames") {
        if let Err(error) = decode_frames() {
            eprintln!("microvmd-agent: {error}");
            std::process::exit(1);
        }
        return;
    }
    if std::process::id() != 1 {
        eprintln!("microvmd-agent: runs as the first process of a MicroVM");
        std::process::exit(2);
    }
    let error = boot::boot().and_then(agent::Agent::new).and_then(|mut agent| agent.run());
    if let Err(error) = error {
        eprintln!("microvmd-agent: {error}");
    }
    // With panic=-1 the kernel restarts, which ends a VMM that runs with -no-reboot.
    std::process::exit(1);
}

/// Self-test: prints "kind stream payload-in-hex" for each frame on stdin, so that the node's
/// codec can be compared with this parser.
fn decode_frames() -> io::Result<()> {
    let mut parser = frames::Parser::default();
    let mut bytes = [0u8; 4096];
    let mut out = io::BufWriter::new(io::stdout().lock());
    loop {
        let count = io::stdin().lock().read(&mut bytes)?;
        if count == 0 {
            return out.flush();
        }
        parser.feed(&bytes[..count]);
        while let Some(frame) = parser.next_frame() {
            write!(out, "{} {} ", frame.kind as u8, frame.stream)?;
            for byte in &frame.payload {
                write!(out, "{byte:02x}")?;
            }
            writeln!(out)?;
        }
    }
}
