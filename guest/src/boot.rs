//! From the initramfs to a root of our own: modules, devices, disks.
//!
//! The agent ends in a small tmpfs that holds only mount points. It cannot stay in the
//! initramfs, because pivot_root(2) refuses to leave a rootfs and containers need it.

use crate::channel::Channel;
use crate::sys::{self, Error, Result, Step};
use std::fs::{self, File};
use std::os::raw::c_int;
use std::os::unix::io::AsRawFd;
use std::path::{Path, PathBuf};

const MODULES: &str = "/modules";
/// The modules that only a machine with a vsock needs, in their order.
const VSOCK_MODULES: &str = "/modules/vsock";
/// In the virtio specification (5, device types), as sysfs shows it.
const VIRTIO_VSOCK: &str = "0x0013";
const PORT_NAME: &str = "microvmd.agent";
const BASE: &str = "/base";
/// In the initramfs: a static program that is a shell under the name of sh.
const BUILTIN_SHELL: &str = "/shell";
/// A device that has not appeared by then never will; a busy host needs seconds under TCG.
const DEVICE_LIMIT_MS: i64 = 30_000;

/// The merged root of the application as the agent sees it.
pub const APPLICATION: &str = "/app";
/// The control group of the application, with every controller that the kernel has.
pub const CGROUP: &str = "/cgroup/app";
/// The devpts instance that the agent shares with containers.
pub const TERMINALS: &str = "/terminals";

const NODE_FLAGS: u64 = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;

pub struct Booted {
    pub channel: Channel,
    /// For images without a shell. Kept open: nothing else of the initramfs can be reached later.
    pub shell: Option<File>,
    /// Why there is no root for an application, if so; the agent still answers the node.
    pub root: Result<()>,
}

pub fn boot() -> Result<Booted> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        sys::mkdir(target, 0o755)?;
        sys::mount(kind, target, kind, libc::MS_NOSUID, "")?;
    }
    attach_console()?;
    let devices = Devices::new().step("open the uevent socket")?;
    load_modules(&format!("{MODULES}/order"))?;
    if let Err(error) = crate::net::configure() {
        eprintln!("microvmd-agent: {error}");
    }
    let found = devices.wait(find_channel)?;
    match &found {
        Found::Vsock => load_modules(VSOCK_MODULES)?,
        Found::Port(_) => forget_modules(VSOCK_MODULES),
    }
    let shell = File::open(BUILTIN_SHELL).ok();
    let root = prepare_base().and_then(|()| mount_disks());
    enter_base()?;
    let channel = match found {
        Found::Port(path) => open_port(&path)?,
        Found::Vsock => Channel::listen()?,
    };
    Ok(Booted { channel, shell, root })
}

/// Descriptors 0 to 2, so that no file of ours is ever taken for a standard stream.
fn attach_console() -> Result<()> {
    let console = fs::OpenOptions::new().read(true).write(true).open("/dev/console");
    let console = console.or_else(|_| File::open("/dev/null")).step("open the console")?;
    for fd in 0..3 {
        sys::check(unsafe { libc::dup2(console.as_raw_fd(), fd) }).step("dup2 the console")?;
    }
    if console.as_raw_fd() < 3 {
        std::mem::forget(console);
    }
    Ok(())
}

fn load_modules(order: &str) -> Result<()> {
    let order = fs::read_to_string(order).step("read the module order")?;
    for name in order.lines() {
        let path = Path::new(MODULES).join(name);
        if let Err(error) = sys::load_module(&path) {
            // One driver less may still boot; what is really missing fails below by its name.
            eprintln!("microvmd-agent: {error}");
        }
        // The initramfs is memory, and the memory of every clone is its snapshot.
        let _ = sys::unlink(&path);
    }
    Ok(())
}

fn forget_modules(order: &str) {
    for name in fs::read_to_string(order).unwrap_or_default().lines() {
        let _ = sys::unlink(&Path::new(MODULES).join(name));
    }
}

/// What a machine has for the agent: its VMM decides it.
enum Found {
    Port(PathBuf),
    Vsock,
}

fn find_channel() -> Option<Found> {
    match find_port() {
        Some(path) => Some(Found::Port(path)),
        None => has_vsock().then_some(Found::Vsock),
    }
}

fn has_vsock() -> bool {
    let devices = match fs::read_dir("/sys/bus/virtio/devices") {
        Ok(devices) => devices,
        Err(_) => return false,
    };
    devices.flatten().any(|entry| {
        let kind = fs::read_to_string(entry.path().join("device")).unwrap_or_default();
        kind.trim_end() == VIRTIO_VSOCK
    })
}

fn open_port(path: &Path) -> Result<Channel> {
    let port = fs::OpenOptions::new().read(true).write(true).open(path).step("open the port")?;
    sys::set_nonblocking(&port).step("set the port non-blocking")?;
    Ok(Channel::Port(port))
}

fn find_port() -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let device = Path::new("/dev").join(entry.file_name());
        if name.trim_end() == PORT_NAME && device.exists() {
            return Some(device);
        }
    }
    None
}

/// Kernel events about devices: ports are announced after their driver has loaded.
struct Devices(File);

impl Devices {
    fn new() -> std::io::Result<Devices> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let protocol = libc::NETLINK_KOBJECT_UEVENT;
        let fd = sys::check(unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) })?;
        let socket = sys::owned(fd);
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = 1;
        let size = std::mem::size_of_val(&address) as u32;
        let pointer = &address as *const _ as *const libc::sockaddr;
        sys::check(unsafe { libc::bind(socket.as_raw_fd(), pointer, size) })?;
        Ok(Devices(socket))
    }

    fn wait<T>(&self, found: impl Fn() -> Option<T>) -> Result<T> {
        let deadline = sys::now() + DEVICE_LIMIT_MS;
        loop {
            if let Some(thing) = found() {
                return Ok(thing);
            }
            let left = deadline - sys::now();
            if left <= 0 {
                return Err(Error::errno(format!("find the port {PORT_NAME} or a vsock"), libc::ENODEV));
            }
            let mut poll =
                libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            if unsafe { libc::poll(&mut poll, 1, left as c_int) } > 0 {
                let mut event = [0u8; 4096];
                let _ = std::io::Read::read(&mut &self.0, &mut event);
            }
        }
    }
}

fn prepare_base() -> Result<()> {
    sys::mkdir(BASE, 0o755)?;
    sys::mount("tmpfs", BASE, "tmpfs", libc::MS_NOSUID, "mode=0755,size=1m")?;
    for name in ["proc", "sys", "dev", "ro", "rw", "app", "cgroup", "terminals", "identity"] {
        sys::mkdir(&format!("{BASE}/{name}"), 0o755)?;
    }
    let terminals = format!("{BASE}{TERMINALS}");
    let options = "mode=0620,ptmxmode=0666,gid=5";
    sys::mount("devpts", &terminals, "devpts", libc::MS_NOSUID | libc::MS_NOEXEC, options)?;
    sys::mount("cgroup2", &format!("{BASE}/cgroup"), "cgroup2", NODE_FLAGS, "")?;
    sys::mkdir(&format!("{BASE}{CGROUP}"), 0o755)?;
    let available = fs::read_to_string(format!("{BASE}/cgroup/cgroup.controllers"));
    for controller in available.step("read the controllers")?.split_whitespace() {
        let path = format!("{BASE}/cgroup/cgroup.subtree_control");
        let _ = fs::write(path, format!("+{controller}"));
    }
    Ok(())
}

/// vda = the image's root (erofs, read-only), vdb = the writable disk (ext4), both by the
/// device order that every snapshot keeps.
fn mount_disks() -> Result<()> {
    let (ro, rw) = (format!("{BASE}/ro"), format!("{BASE}/rw"));
    sys::mount("/dev/vda", &ro, "erofs", libc::MS_RDONLY | libc::MS_NODEV, "")?;
    if Path::new("/dev/vdb").exists() {
        sys::mount("/dev/vdb", &rw, "ext4", libc::MS_NOATIME | libc::MS_NODEV, "")?;
    } else {
        sys::mount("tmpfs", &rw, "tmpfs", libc::MS_NODEV, "mode=0755")?;
    }
    sys::mkdir(&format!("{rw}/upper"), 0o755)?;
    sys::mkdir(&format!("{rw}/work"), 0o755)?;
    let layers = format!("lowerdir={ro},upperdir={rw}/upper,workdir={rw}/work");
    sys::mount("overlay", &format!("{BASE}{APPLICATION}"), "overlay", libc::MS_NODEV, &layers)
}

fn enter_base() -> Result<()> {
    for name in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{name}"), format!("{BASE}/{name}"));
        sys::mount(&from, &to, "", libc::MS_MOVE, "")?;
    }
    std::env::set_current_dir(BASE).step("enter the base")?;
    sys::mount(".", "/", "", libc::MS_MOVE, "")?;
    let dot = b".\0".as_ptr() as *const _;
    sys::check(unsafe { libc::chroot(dot) }).step("chroot into the base")?;
    std::env::set_current_dir("/").step("enter the root")
}
