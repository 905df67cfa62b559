//! System calls with errors that name the call.

use std::ffi::CStr;
use std::io;
use std::ptr;

pub type Outcome<T = ()> = Result<T, String>;

/// Turns the -1 of a system call into its message.
pub fn check(value: libc::c_long, what: &str) -> Outcome<libc::c_long> {
    if value == -1 {
        return Err(format!("{what}: {}", io::Error::last_os_error()));
    }
    Ok(value)
}

pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> Outcome {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    let done = unsafe {
        libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, pointer(data).cast())
    };
    check(done.into(), &format!("mount on {}", target.to_string_lossy()))?;
    Ok(())
}

pub fn prctl(option: libc::c_int, argument: libc::c_ulong, what: &str) -> Outcome {
    let none: libc::c_ulong = 0;
    check(unsafe { libc::prctl(option, argument, none, none, none) }.into(), what)?;
    Ok(())
}

pub fn write_all(path: &CStr, content: &[u8]) -> Outcome {
    let name = path.to_string_lossy();
    let fd = check(
        unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) }.into(),
        &name,
    )? as libc::c_int;
    let done = check(
        unsafe { libc::write(fd, content.as_ptr().cast(), content.len()) } as libc::c_long,
        &name,
    );
    unsafe { libc::close(fd) };
    done.map(|_| ())
}
