//! The job file: what init shall do, written by the host into the initramfs.
//!
//! ```text
//!   "ONEROOF\n"  version u16  flags u8  rows u16  columns u16
//!   hostname  cwd  argv[]  env[]  modules[]: trigger u8, path
//!   root u8, tag if 1 or 2  shares[]: mode u8, tag, path  user u8, uid u32, gid u32, groups[] u32 if 1
//!   network u8: 0 none | 1 address, prefix u8, gateway, resolver's file | 2 by DHCP
//! ```
//! IPv4 addresses are four bytes. Strings are a u32 length and bytes, lists a u32 count and items, integers little-endian.
//! Invariant: `Job::decode(job.encode()) == job`, and no input makes `decode` allocate more than
//! its own length.

use thiserror::Error;

use crate::VERSION;

const MAGIC: &[u8; 8] = b"ONEROOF\n";

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

impl Default for WindowSize {
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

/// When init loads a kernel module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleTrigger {
    /// At every boot.
    Always,
    /// When the machine has a virtio PCI device (vendor 0x1AF4).
    VirtioDevice,
    /// As [`Self::VirtioDevice`], a second after the command was started: what only matters to guests
    /// that stay costs the others nothing.
    Later,
    /// When a command writes or reads so much that a faster way to the host is worth it.
    Bulk,
}

/// A kernel module in the initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// When to load it.
    pub trigger: ModuleTrigger,
    /// Its path, uncompressed.
    pub path: Vec<u8>,
}

/// The host's own user space, to be the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoot {
    /// The tag of the virtio-fs share that it is.
    pub tag: Vec<u8>,
    /// The initramfs has a user space, too, for a kernel that cannot mount this one.
    pub optional: bool,
}

/// What becomes of changes to a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareMode {
    /// They are refused.
    ReadOnly,
    /// They are the host's at once.
    ReadWrite,
    /// They stay in the guest's memory.
    CopyOnWrite,
}

/// A directory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// What becomes of changes.
    pub mode: ShareMode,
    /// The tag of its virtio-fs device.
    pub tag: Vec<u8>,
    /// Where it is mounted.
    pub path: Vec<u8>,
    /// Nobody asked for it: a kernel that cannot mount it does without.
    pub optional: bool,
}

/// Who the command runs as, if not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// How the guest's network card is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// There is none.
    #[default]
    None,
    /// The host knows, so nobody has to be asked; IPv6 by router advertisements.
    Known {
        /// The guest's IPv4 address.
        address: [u8; 4],
        /// Bits of its network, at most 32.
        prefix: u8,
        /// The default route.
        gateway: [u8; 4],
        /// What /etc/resolv.conf says.
        resolver: Vec<u8>,
    },
    /// Somebody on the link knows.
    Dhcp,
}

/// What init shall do. Strings are bytes, as Linux has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Gives the command a terminal of its own, with job control; otherwise three pipes.
    pub terminal: bool,
    /// The terminal's first size.
    pub window: WindowSize,
    /// The guest's host name.
    pub hostname: Vec<u8>,
    /// Where the command starts.
    pub cwd: Vec<u8>,
    /// The command: a path or a name to look for in `PATH`, and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` each.
    pub env: Vec<Vec<u8>>,
    /// Kernel modules in loading order.
    pub modules: Vec<Module>,
    /// The root directory; `None`: that of the initramfs.
    pub root: Option<HostRoot>,
    /// Directories to mount, in this order.
    pub shares: Vec<Share>,
    /// Who the command runs as; `None`: root.
    pub user: Option<User>,
    /// The network card.
    pub network: Network,
}

/// Why bytes are no job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JobError {
    /// The magic is missing.
    #[error("not a job file")]
    Magic,
    /// Another version of this crate wrote it.
    #[error("the job is of protocol version {0}, this is {VERSION}")]
    Version(u16),
    /// It ends early, or a field has an impossible value.
    #[error("the job file is damaged at byte {0}")]
    Damaged(usize),
}

impl Job {
    /// The job as a file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.push(u8::from(self.terminal));
        out.extend_from_slice(&self.window.rows.to_le_bytes());
        out.extend_from_slice(&self.window.columns.to_le_bytes());
        put_string(&mut out, &self.hostname);
        put_string(&mut out, &self.cwd);
        for list in [&self.argv, &self.env] {
            out.extend_from_slice(&(list.len() as u32).to_le_bytes());
            for item in list {
                put_string(&mut out, item);
            }
        }
        out.extend_from_slice(&(self.modules.len() as u32).to_le_bytes());
        for module in &self.modules {
            out.push(match module.trigger {
                ModuleTrigger::Always => 0,
                ModuleTrigger::VirtioDevice => 1,
                ModuleTrigger::Later => 2,
                ModuleTrigger::Bulk => 3,
            });
            put_string(&mut out, &module.path);
        }
        self.put_host(&mut out);
        put_network(&mut out, &self.network);
        out
    }

    /// What is the host's.
    fn put_host(&self, out: &mut Vec<u8>) {
        out.push(self.root.as_ref().map_or(0, |root| if root.optional { 2 } else { 1 }));
        if let Some(root) = &self.root {
            put_string(out, &root.tag);
        }
        out.extend_from_slice(&(self.shares.len() as u32).to_le_bytes());
        for share in &self.shares {
            out.push(match share.mode {
                ShareMode::ReadOnly => 0,
                ShareMode::ReadWrite => 1,
                ShareMode::CopyOnWrite => 2,
            });
            put_string(out, &share.tag);
            put_string(out, &share.path);
            out.push(u8::from(share.optional));
        }
        out.push(u8::from(self.user.is_some()));
        if let Some(user) = &self.user {
            for number in [user.uid, user.gid, user.groups.len() as u32] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            user.groups.iter().for_each(|group| out.extend_from_slice(&group.to_le_bytes()));
        }
    }

    /// The job in a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, JobError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(MAGIC.len()).ok() != Some(MAGIC.as_slice()) {
            return Err(JobError::Magic);
        }
        let version = reader.u16()?;
        if version != VERSION {
            return Err(JobError::Version(version));
        }
        let terminal = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.damaged()),
        };
        let window = WindowSize { rows: reader.u16()?, columns: reader.u16()? };
        let hostname = reader.string()?;
        let cwd = reader.string()?;
        let argv = reader.list(Reader::string)?;
        let env = reader.list(Reader::string)?;
        let modules = reader.list(Reader::module)?;
        let root = reader.root()?;
        let shares = reader.list(Reader::share)?;
        let user = reader.user()?;
        let network = reader.network()?;
        if reader.at != bytes.len() {
            return Err(reader.damaged());
        }
        Ok(Self {
            terminal,
            window,
            hostname,
            cwd,
            argv,
            env,
            modules,
            root,
            shares,
            user,
            network,
        })
    }
}

fn put_network(out: &mut Vec<u8>, network: &Network) {
    match network {
        Network::None => out.push(0),
        Network::Known { address, prefix, gateway, resolver } => {
            out.push(1);
            out.extend_from_slice(address);
            out.push(*prefix);
            out.extend_from_slice(gateway);
            put_string(out, resolver);
        }
        Network::Dhcp => out.push(2),
    }
}

fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    out.extend_from_slice(&(string.len() as u32).to_le_bytes());
    out.extend_from_slice(string);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn damaged(&self) -> JobError {
        JobError::Damaged(self.at)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], JobError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(self.damaged())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, JobError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, JobError> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<usize, JobError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }

    fn string(&mut self) -> Result<Vec<u8>, JobError> {
        let length = self.u32()?;
        Ok(self.take(length)?.to_vec())
    }

    fn list<T>(&mut self, item: fn(&mut Self) -> Result<T, JobError>) -> Result<Vec<T>, JobError> {
        let count = self.u32()?;
        let mut items = Vec::new(); // grows only as items are found
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn address(&mut self) -> Result<[u8; 4], JobError> {
        Ok(*self.take(4)?.first_chunk().expect("four bytes were taken"))
    }

    fn network(&mut self) -> Result<Network, JobError> {
        Ok(match self.u8()? {
            0 => Network::None,
            1 => {
                let address = self.address()?;
                let prefix = self.u8()?;
                if prefix > 32 {
                    return Err(self.damaged());
                }
                Network::Known {
                    address,
                    prefix,
                    gateway: self.address()?,
                    resolver: self.string()?,
                }
            }
            2 => Network::Dhcp,
            _ => return Err(self.damaged()),
        })
    }

    fn module(&mut self) -> Result<Module, JobError> {
        let trigger = match self.u8()? {
            0 => ModuleTrigger::Always,
            1 => ModuleTrigger::VirtioDevice,
            2 => ModuleTrigger::Later,
            3 => ModuleTrigger::Bulk,
            _ => return Err(self.damaged()),
        };
        Ok(Module { trigger, path: self.string()? })
    }

    fn root(&mut self) -> Result<Option<HostRoot>, JobError> {
        let optional = match self.u8()? {
            0 => return Ok(None),
            1 => false,
            2 => true,
            _ => return Err(self.damaged()),
        };
        Ok(Some(HostRoot { tag: self.string()?, optional }))
    }

    fn share(&mut self) -> Result<Share, JobError> {
        let mode = match self.u8()? {
            0 => ShareMode::ReadOnly,
            1 => ShareMode::ReadWrite,
            2 => ShareMode::CopyOnWrite,
            _ => return Err(self.damaged()),
        };
        let (tag, path) = (self.string()?, self.string()?);
        let optional = match self.u8()? {
            0 => false,
            1 => true,
            _ => return Err(self.damaged()),
        };
        Ok(Share { mode, tag, path, optional })
    }

    fn number(&mut self) -> Result<u32, JobError> {
        self.u32().map(|number| number as u32)
    }

    fn user(&mut self) -> Result<Option<User>, JobError> {
        match self.u8()? {
            0 => Ok(None),
            1 => {
                let (uid, gid) = (self.number()?, self.number()?);
                Ok(Some(User { uid, gid, groups: self.list(Self::number)? }))
            }
            _ => Err(self.damaged()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            terminal: true,
            window: WindowSize { rows: 50, columns: 132 },
            hostname: b"oneroof".to_vec(),
            cwd: b"/root".to_vec(),
            argv: vec![b"sh".to_vec(), b"-c".to_vec(), b"exit 7".to_vec()],
            env: vec![b"TERM=xterm".to_vec()],
            modules: vec![
                Module { trigger: ModuleTrigger::VirtioDevice, path: b"/m/a.ko".to_vec() },
                Module { trigger: ModuleTrigger::Later, path: b"/m/b.ko".to_vec() },
            ],
            root: Some(HostRoot { tag: b"root".to_vec(), optional: true }),
            shares: vec![Share {
                mode: ShareMode::CopyOnWrite,
                tag: b"share0".to_vec(),
                path: b"/home/me".to_vec(),
                optional: true,
            }],
            user: Some(User { uid: 1000, gid: 100, groups: vec![4, u32::MAX] }),
            network: Network::Known {
                address: [10, 0, 2, 15],
                prefix: 24,
                gateway: [10, 0, 2, 2],
                resolver: b"nameserver 10.0.2.3\n".to_vec(),
            },
        }
    }

    #[test]
    fn a_job_comes_back() {
        assert_eq!(Job::decode(&job().encode()), Ok(job()));
        assert_eq!(Job::decode(&Job::default().encode()), Ok(Job::default()));
        let asking = Job { network: Network::Dhcp, ..job() };
        assert_eq!(Job::decode(&asking.encode()), Ok(asking));
    }

    #[test]
    fn a_cut_or_foreign_job_is_refused() {
        let bytes = job().encode();
        for length in 0..bytes.len() {
            assert!(Job::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Job::decode(&longer), Err(JobError::Damaged(bytes.len())));
        let mut newer = bytes;
        newer[8] = 9;
        assert_eq!(Job::decode(&newer), Err(JobError::Version(9)));
        assert_eq!(Job::decode(b"hello, world"), Err(JobError::Magic));
    }
}
