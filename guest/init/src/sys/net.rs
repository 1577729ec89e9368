//! Network interfaces by the oldest way there is: netdevice(7)'s ioctls.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// An IPv4 address in its network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) address: [u8; 4],
    /// Bits of the network, at most 32.
    pub(crate) prefix: u8,
}

/// Brings an interface up; nothing on a kernel without networking, which has none.
pub(crate) fn bring_up(name: &str) -> io::Result<()> {
    let Some(socket) = any_socket()? else {
        return Ok(());
    };
    let mut request = request(name);
    call(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the kernel has just written this field of the union, and every bit pattern is valid.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    call(&socket, libc::SIOCSIFFLAGS, &mut request)
}

/// Gives an interface its IPv4 address.
pub(crate) fn set_address(name: &str, address: Address) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mask = u32::MAX.checked_shl(32 - u32::from(address.prefix)).unwrap_or(0);
    let parts = [(libc::SIOCSIFADDR, address.address), (libc::SIOCSIFNETMASK, mask.to_be_bytes())];
    for (number, bytes) in parts {
        let mut request = request(name);
        request.ifr_ifru.ifru_addr = socket_address(bytes);
        call(&socket, number, &mut request)?;
    }
    Ok(())
}

/// Sends what has no other way to a gateway, unless it goes there already.
pub(crate) fn add_default_route(gateway: [u8; 4]) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: rtentry is plain data of integers, bytes and a pointer to a name, which may be null.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address([0; 4]);
    route.rt_genmask = socket_address([0; 4]);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: the descriptor is open and SIOCADDRT reads one rtentry, which lives across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        error => Err(error),
    }
}

/// Makes a socket send and hear on one interface only.
pub(crate) fn bind_to(socket: &UdpSocket, name: &str) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads as many bytes of the name as it has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data of integers and bytes; all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (slot, byte) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request
}

fn call(socket: &UdpSocket, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the descriptor is open and the interface ioctls read and write one ifreq, which lives
    // across the call and whose name ends with a zero.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), number as _, request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An address as ioctls want it.
fn socket_address(address: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (slot, byte) in data[2..].iter_mut().zip(address) {
        *slot = byte as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// Any IPv4 socket; `None` on a kernel without networking, which has no loopback either.
fn any_socket() -> io::Result<Option<UdpSocket>> {
    match UdpSocket::bind("0.0.0.0:0") {
        Ok(socket) => Ok(Some(socket)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::ENOSYS) => Ok(None),
            _ => Err(error),
        },
    }
}
