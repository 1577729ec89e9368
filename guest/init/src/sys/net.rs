//! The loopback interface, by the oldest way there is: SIOCGIFFLAGS and SIOCSIFFLAGS (netdevice(7)).

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Brings `lo` up.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    let Some(socket) = any_socket()? else {
        return Ok(());
    };
    // SAFETY: ifreq is plain data of integers and bytes; all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *slot = *byte as libc::c_char;
    }
    // SAFETY: the descriptor is open and SIOCGIFFLAGS reads the NUL-terminated name and writes
    // `ifru_flags`, both inside `request`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just written this field of the union, and every bit pattern is valid.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above; the call only reads `request`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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
