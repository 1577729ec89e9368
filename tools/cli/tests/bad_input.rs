//! Whatever is wrong with what `roof run` is given, it says so in a sentence of its own and exits
//! with 125.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{World, vmlinux};

/// Runs `roof run` with these arguments; gives what it said while failing.
fn refused(world: &World, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let mut command = world.roof();
    command.args(["run", "--engine", "soft"]);
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    refusal(&command.output().expect("roof was built"))
}

fn refusal(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "roof said: {said}");
    assert!(!said.contains("panicked at"), "roof said: {said}");
    assert!(output.stdout.is_empty(), "nothing but the guest writes to standard output");
    said
}

fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "`{word}` is missing in: {said}");
    }
}

/// A bzImage's header with nothing behind it that would boot.
fn bzimage(payload: &[u8], announced_sectors: u32) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1; // setup sectors
    file[0x1f4..0x1f8].copy_from_slice(&announced_sectors.to_le_bytes());
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    file[0x211] = 1; // loaded high
    file[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    file[0x230..0x234].copy_from_slice(&0x20_0000_u32.to_le_bytes());
    file[0x234] = 1; // relocatable
    file[0x236..0x238].copy_from_slice(&0x3f_u16.to_le_bytes()); // 64-bit entry and kin
    file[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&0_u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x200_0000_u32.to_le_bytes());
    file.extend_from_slice(payload);
    file.resize(file.len().next_multiple_of(16), 0);
    file
}

fn elf(machine: u16) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[6] = 1;
    file[16..18].copy_from_slice(&2_u16.to_le_bytes());
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    file[20] = 1;
    file[52..54].copy_from_slice(&64_u16.to_le_bytes());
    file
}

/// An empty cpio archive.
fn initramfs() -> Vec<u8> {
    let mut file = b"070701".to_vec();
    for field in [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0] {
        file.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    file.extend_from_slice(b"TRAILER!!!\0\0\0\0");
    file
}

#[test]
fn a_missing_kernel_file() {
    let said = refused(&World::new(), &[&"./no-such-kernel"]);
    assert_says(&said, &["no-such-kernel", "no such file"]);
}

#[test]
fn a_directory_as_kernel() {
    let world = World::new();
    assert_says(&refused(&world, &[&world.root()]), &["is a directory, not a kernel"]);
}

#[test]
fn an_elf_for_another_machine() {
    let world = World::new();
    const AARCH64: u16 = 183;
    let file = world.file("vmlinux", &elf(AARCH64));
    assert_says(&refused(&world, &[&file]), &["vmlinux", "not for x86-64"]);
}

#[test]
fn a_truncated_bzimage() {
    let world = World::new();
    let mut bytes = bzimage(&[7; 4096], 1 << 16);
    bytes.truncate(3000);
    let file = world.file("bzImage", &bytes);
    assert_says(&refused(&world, &[&file]), &["truncated"]);
}

#[test]
fn an_unknown_compression() {
    let world = World::new();
    let payload = [b"NOTAFORMAT".as_slice(), &[0; 4086]].concat();
    let sectors = (payload.len() / 16) as u32;
    let file = world.file("bzImage", &bzimage(&payload, sectors));
    assert_says(&refused(&world, &[&file]), &["compressed in an unknown way"]);
}

#[test]
fn an_initrd_as_kernel() {
    let world = World::new();
    let file = world.file("initrd.img", &initramfs());
    assert_says(&refused(&world, &[&file]), &["is an initramfs", "-i"]);
}

#[test]
fn a_kernel_as_initrd() {
    let world = World::new();
    let file = world.file("bzImage", &bzimage(&[7; 4096], 256));
    assert_says(&refused(&world, &[&"-i", &file, &file]), &["is a kernel", "without -i"]);
}

#[test]
fn initrds_that_are_none() {
    let world = World::new();
    let kernel = world.file("bzImage", &bzimage(&[7; 4096], 256));
    assert_says(
        &refused(&world, &[&"-i", &world.path("nothing"), &kernel]),
        &["cannot read the initrd", "nothing"],
    );
    assert_says(
        &refused(&world, &[&"-i", &world.root(), &kernel]),
        &["cannot read the initrd", "directory"],
    );
    let empty = world.file("empty", b"");
    assert_says(&refused(&world, &[&"-i", &empty, &kernel]), &["initrd is empty"]);
}

#[test]
fn other_files_as_kernel() {
    let world = World::new();
    assert_says(&refused(&world, &[&world.file("empty", b"")]), &["empty"]);
    assert_says(&refused(&world, &[&world.file("run", b"#!/bin/sh\n")]), &["script"]);
    assert_says(&refused(&world, &[&"/dev/null"]), &["not a regular file"]);
    assert_says(&refused(&world, &[&env!("CARGO_BIN_EXE_roof")]), &["program, not a kernel"]);
}

#[test]
fn impossible_processors() {
    let world = World::new();
    assert_says(&refused(&world, &[&"-c", &"0"]), &["at least one CPU"]);
    assert_says(&refused(&world, &[&"-c", &"10000"]), &["at most 255 CPUs", "10000"]);
    assert_says(&refused(&world, &[&"-c", &"many"]), &["many"]);
}

#[test]
fn impossible_memory() {
    let world = World::new();
    assert_says(&refused(&world, &[&"-m", &"1M"]), &["too small"]);
    assert_says(&refused(&world, &[&"-m", &"900T"]), &["more than this host has"]);
    assert_says(&refused(&world, &[&"-m", &"lots"]), &["512M"]);
}

#[test]
fn memory_that_kernel_and_initrd_do_not_fit_in() {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(&[0xf4], 64 << 20));
    assert_says(&refused(&world, &[&"-m", &"32M", &kernel]), &["memory is too small", "32 MiB"]);
    let small = world.file("small", &vmlinux(&[0xf4], 1 << 20));
    let mut bytes = initramfs();
    bytes.resize(60 << 20, 0);
    let initrd = world.file("initrd.img", &bytes);
    let said = refused(&world, &[&"-m", &"48M", &"-i", &initrd, &small]);
    assert_says(&said, &["memory is too small", "48 MiB"]);
}

/// A host with this as its /dev: none of the real one shows. `None` where users may not have
/// namespaces of their own.
fn with_dev(world: &World, make: &str) -> Option<String> {
    let drop = "exec setpriv --bounding-set=-all --inh-caps=-all";
    let script = format!("mount -t tmpfs none /dev && {make} && {drop} \"$0\" run --engine kvm x");
    let mut command = world.command("unshare");
    command.args(["-rm", "sh", "-c", &script, env!("CARGO_BIN_EXE_roof")]);
    let output = command.output().ok()?;
    if output.status.code() != Some(125) {
        eprintln!("skipped: no namespaces here: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(refusal(&output))
}

#[test]
fn a_dev_kvm_that_is_missing_forbidden_or_something_else() {
    let world = World::new();
    for (make, words) in [
        ("true", "/dev/kvm does not exist"),
        (": > /dev/kvm && chmod 0 /dev/kvm", "no permission to open /dev/kvm"),
        (": > /dev/kvm", "/dev/kvm speaks API version"),
    ] {
        if let Some(said) = with_dev(&world, make) {
            assert_says(&said, &["--engine kvm", words]);
        }
    }
}

#[test]
fn no_kernel_and_no_network() {
    let world = World::new();
    let said = refused(&world, &[]);
    let places = ["arch/x86/boot/bzImage", "lib/modules", "boot/vmlinuz", "cache"];
    assert_says(&said, &places);
    let has = |name: &str| Command::new(name).arg("--version").output().is_ok();
    if has("apt-get") || has("dnf") {
        assert_says(&said, &["cannot fetch a kernel", "network", "roof run /path/to/vmlinuz"]);
    } else {
        assert_says(&said, &["neither apt-get nor dnf"]);
    }
    let left: Vec<_> =
        std::fs::read_dir(world.path("cache/kernels")).expect("it was made").collect();
    assert!(left.is_empty(), "nothing half-fetched stays: {left:?}");
}

#[test]
fn kvm_that_cannot_be_had() {
    let world = World::new();
    let doctor = world.roof().arg("doctor").output().expect("roof was built");
    if String::from_utf8_lossy(&doctor.stdout).contains("hardware virtualization works") {
        eprintln!("skipped: this host's /dev/kvm is hardware that works");
        return;
    }
    let output = world.roof().args(["run", "--engine", "kvm"]).output().expect("roof was built");
    assert_says(&refusal(&output), &["--engine kvm", "/dev/kvm"]);
}

#[test]
fn disks_that_are_none() {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(&[0xf4], 0));
    let disk = |name: &str, words: &[&str]| {
        assert_says(&refused(&world, &[&"-d", &world.path(name), &kernel]), words);
    };
    disk("none.img", &["no disk image", "none.img", "roof disk create"]);
    world.file("empty.img", b"");
    disk("empty.img", &["0 bytes", "empty file", "roof disk create"]);
    std::fs::create_dir(world.path("folder")).expect("a temporary directory");
    disk("folder", &["is a directory", "--share"]);
    world.file("foreign", b"vhdxfile");
    disk("foreign", &["foreign is a VHDX image", "qemu-img convert", "format=raw"]);
    world.file("raw.img", &[0; 4096]);
    disk("raw.img,format=qcow2", &["raw.img is no qcow2 image", "leave the format out"]);
    disk("raw.img,format=vmdk", &["no disk format `vmdk`", "raw or qcow2"]);
    disk("raw.img,ro,cow", &["ro, rw and cow exclude each other"]);
    let twice = refused(&world, &[&"-d", &"raw.img", &"-d", &"raw.img", &kernel]);
    assert_says(&twice, &["raw.img is in use by this same roof", "`ro`", "`cow`"]);
}

#[test]
fn copy_on_write_without_a_place_for_it() {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(&[0xf4], 0));
    world.file("raw.img", &[0; 4096]);
    let mut command = world.roof();
    command.args(["run", "--engine", "soft", "-d", "raw.img,cow"]).arg(kernel);
    let output = command.env("TMPDIR", "/no/such/folder").output().expect("roof was built");
    assert_says(&refusal(&output), &["temporary file in /no/such/folder", "set TMPDIR"]);
}

/// Makes qcow2 images in a world.
fn create(world: &World, arguments: &[&str]) {
    let made = world.roof().args(["disk", "create"]).args(arguments).status();
    assert!(made.expect("roof was built").success());
}

#[test]
fn damaged_images_and_backing_files() {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(&[0xf4], 0));
    let disk = |name: &str, words: &[&str]| {
        assert_says(&refused(&world, &[&"-d", &name, &kernel]), words);
    };
    create(&world, &["base.qcow2", "1M"]);
    create(&world, &["a.qcow2", "--backing", "base.qcow2"]);
    let whole = std::fs::read(world.path("base.qcow2")).expect("just made");
    world.file("short.qcow2", &whole[..70_000]);
    disk("short.qcow2", &["short.qcow2 is cut short", "past the end of the file"]);
    world.file("bits.qcow2", &[&whole[..20], &[0xff; 4], &whole[24..]].concat());
    disk("bits.qcow2", &["bits.qcow2 is damaged"]);
    std::fs::remove_file(world.path("base.qcow2")).expect("just made");
    disk("a.qcow2", &["the backing file of a.qcow2 fails", "base.qcow2"]);
    // The same name in another image: now they are each other's.
    let other = std::fs::read(world.path("a.qcow2")).expect("just made");
    std::fs::write(world.path("base.qcow2"), other).expect("a temporary directory");
    disk("a.qcow2", &["is its own backing file", "names the wrong file"]);
}

#[test]
fn a_disk_in_use_names_who_has_it() {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(&[0xf4], 0));
    let image = world.file("disk.img", &[0; 4096]);
    // An endless guest: jmp to itself.
    let endless = world.file("endless", &vmlinux(&[0xeb, 0xfe], 1 << 20));
    let mut first = world.roof();
    first.args(["run", "--engine", "soft", "-d"]).arg(&image).arg(endless);
    let mut first = first.stderr(std::process::Stdio::piped()).spawn().expect("roof was built");
    let mut line = String::new();
    let mut lines = std::io::BufReader::new(first.stderr.take().expect("piped"));
    // Its first line comes when its disks are open.
    std::io::BufRead::read_line(&mut lines, &mut line).expect("it speaks");
    let said = refused(&world, &[&"-d", &image, &kernel]);
    first.kill().expect("it is ours");
    first.wait().expect("it is ours");
    assert_says(&said, &["disk.img is in use by roof", &format!("process {}", first.id())]);
}

#[test]
fn forwards_that_cannot_be() {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(&[0xf4], 0));
    let forward = |text: &str, words: &[&str]| {
        assert_says(&refused(&world, &[&"-P", &text, &kernel]), words);
    };
    forward("8080", &["no port forward", "one port", "8080:80"]);
    forward("0:80", &["host's port"]);
    forward("8080:x", &["guest's port"]);
    forward("here:8080:80", &["address"]);
    forward("8080:80/icmp", &["neither tcp nor udp"]);
    forward("192.0.2.77:18080:80", &["no interface of this host has that address"]);
    for (kind, suffix) in [("tcp", ""), ("udp", "/udp")] {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = if kind == "tcp" { tcp.local_addr() } else { udp.local_addr() };
        let port = address.expect("bound").port();
        let forward = format!("{port}:80{suffix}");
        let said = refused(&world, &[&"-P", &forward, &kernel]);
        assert_says(&said, &["in use", &port.to_string(), "ss -lntup"]);
    }
}

#[test]
fn networks_that_are_none() {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(&[0xf4], 0));
    let said = |arguments: &[&str]| {
        let arguments: Vec<&dyn AsRef<std::ffi::OsStr>> =
            arguments.iter().map(|argument| argument as _).chain([&kernel as _]).collect();
        refused(&world, &arguments)
    };
    assert_says(&said(&["--net", "bridge"]), &["bridge", "none, user", "tap=NAME"]);
    let both = said(&["--net", "none", "-P", "18080:80"]);
    assert_says(&both, &["-P", "not --net none"]);
    let repeatable = said(&["--deterministic", "--net", "user"]);
    assert_says(&repeatable, &["--deterministic", "never repeats"]);
    assert_says(&said(&["--net", "tap=oneroof-none"]), &["no interface", "ip tuntap add"]);
    assert_says(&said(&["--net", "tap=lo"]), &["no tap device"]);
    assert_says(&said(&["--net", "tap=a/b"]), &["no name of an interface"]);
}

/// Makes a tap device that belongs to root alone, and removes it again.
struct RootsTap(String);

impl RootsTap {
    fn new() -> Option<Self> {
        let name = format!("roof{}", std::process::id() % 100_000);
        let arguments = ["tuntap", "add", &name, "mode", "tap", "user", "root"];
        let made = Command::new("ip").args(arguments).output();
        if !made.as_ref().is_ok_and(|made| made.status.success()) {
            eprintln!("skipped: no tap device can be made here: {made:?}");
            return None;
        }
        Some(Self(name))
    }
}

impl Drop for RootsTap {
    fn drop(&mut self) {
        // What stays behind does no harm.
        let _ = Command::new("ip").args(["tuntap", "del", &self.0, "mode", "tap"]).status();
    }
}

#[test]
fn a_tap_device_of_somebody_else_or_in_use() {
    let Some(tap) = RootsTap::new() else { return };
    let world = World::new();
    let network = format!("tap={}", tap.0);
    // The user reaches neither this world nor the folder that roof was built in.
    let shared = tempfile::tempdir_in("/var/tmp").expect("a folder in /var/tmp");
    let open = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    };
    open(shared.path());
    let (roof, kernel) = (shared.path().join("roof"), shared.path().join("vmlinux"));
    std::fs::copy(env!("CARGO_BIN_EXE_roof"), &roof).expect("there is room");
    std::fs::write(&kernel, vmlinux(&[0xf4], 0)).expect("there is room");
    let mut command = world.command("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "--inh-caps=-all", "--"]).arg(&roof);
    command.current_dir(shared.path());
    command.args(["run", "--engine", "soft", "--net", &network]).arg(&kernel);
    let said = refusal(&command.output().expect("setpriv is there where root is"));
    assert_says(&said, &["may not use the tap device", &tap.0, "--net user"]);
    // hlt in a loop, for ever
    let idle = world.file("idle", &vmlinux(&[0xfb, 0xf4, 0xeb, 0xfd], 0));
    let mut first = world.roof();
    first.args(["run", "--engine", "soft", "--timeout", "60", "--net", &network]).arg(&idle);
    let mut first = first.stderr(std::process::Stdio::piped()).spawn().expect("roof was built");
    let mut line = [0; 1];
    std::io::Read::read_exact(first.stderr.as_mut().expect("piped"), &mut line)
        .expect("roof tells what it runs once it has everything");
    let said = refused(&world, &[&"--net", &network, &kernel]);
    first.kill().expect("it runs");
    first.wait().expect("it runs");
    assert_says(&said, &["in use by another program", &tap.0]);
}

#[test]
fn a_command_beside_an_initrd() {
    let world = World::new();
    let initrd = world.file("initrd.img", &initramfs());
    let kernel = world.file("bzImage", &bzimage(&[7; 4096], 256));
    assert_says(
        &refused(&world, &[&"-i", &initrd, &kernel, &"--", &"ls"]),
        &["boots untouched", "ls"],
    );
}

#[test]
fn a_report_tells_of_a_failure_too() {
    let world = World::new();
    let report = world.path("report.json");
    refused(&world, &[&"--json", &report, &"./no-such-kernel"]);
    let text = std::fs::read_to_string(&report).expect("the report was written");
    assert_says(&text, &["\"outcome\": \"error\"", "\"exit_code\": 125", "no-such-kernel"]);
    let nowhere = Path::new("/no/such/directory/report.json");
    assert_says(&refused(&world, &[&"--json", &nowhere]), &["cannot write the report"]);
}

#[test]
fn a_wrong_command_line_is_125_and_help_is_0() {
    let world = World::new();
    refusal(&world.roof().args(["run", "--no-such-option"]).output().expect("roof was built"));
    refusal(&world.roof().output().expect("roof was built"));
    for help in [&["--help"][..], &["run", "--help"], &["version"], &["kernel", "list"]] {
        let output = world.roof().args(help).output().expect("roof was built");
        assert_eq!(output.status.code(), Some(0), "{help:?}");
    }
}
