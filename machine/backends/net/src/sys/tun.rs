//! Tap devices by their ioctls (Linux: include/uapi/linux/if_tun.h, Documentation/networking/tuntap.rst).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Bytes of the header before each frame, the number of buffers included.
pub(crate) const HEADER_BYTES: usize = 12;

/// Makes an open `/dev/net/tun` the other end of an interface, with headers before its frames.
pub(crate) fn attach(file: &File, name: &[u8]) -> io::Result<()> {
    // SAFETY: ifreq is plain data of integers and bytes; all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (slot, byte) in request.ifr_name[..room].iter_mut().zip(name) {
        *slot = *byte as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open while `file` is borrowed, and TUNSETIFF reads and writes one
    // ifreq, which lives across the call.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let bytes = HEADER_BYTES as libc::c_int;
    // SAFETY: as above; TUNSETVNETHDRSZ reads one int.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
}

/// Says what may be sent to us: unfinished checksums (1), large TCP segments over IPv4 (2) and IPv6 (4).
pub(crate) fn set_offload(file: &File, flags: u32) -> io::Result<()> {
    let flags = libc::c_ulong::from(flags);
    // SAFETY: the descriptor is open while `file` is borrowed; the argument is a number.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, flags) })
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
