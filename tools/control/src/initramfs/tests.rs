//! Packs guests and looks into the archives.

use std::collections::HashMap;
use std::ffi::OsString;

use machine::Initrd;

use super::cpio::bytes;
use super::*;

/// Name to (mode, data) of a newc archive.
fn entries(archive: &[u8]) -> HashMap<String, (u32, Vec<u8>)> {
    let mut found = HashMap::new();
    let mut at = 0;
    loop {
        assert_eq!(&archive[at..at + 6], b"070701", "an entry starts at {at}");
        let field = |index: usize| {
            let text = std::str::from_utf8(&archive[at + 6 + index * 8..at + 14 + index * 8]);
            u32::from_str_radix(text.expect("digits"), 16).expect("hexadecimal digits")
        };
        let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
        let name = &archive[at + 110..at + 110 + name_size - 1];
        let name = String::from_utf8(name.to_vec()).expect("test paths are UTF-8");
        if name == "TRAILER!!!" {
            return found;
        }
        let data = (at + 110 + name_size).next_multiple_of(4);
        let previous = found.insert(name.clone(), (mode, archive[data..data + size].to_vec()));
        assert!(previous.is_none(), "{name} is there twice");
        if let Some((parent, _)) = name.rsplit_once('/') {
            assert!(found.contains_key(parent), "{name} comes after its directory");
        }
        at = (data + size).next_multiple_of(4);
    }
}

fn command(words: &[&str]) -> Contents {
    Contents {
        command: words.iter().map(OsString::from).collect(),
        hostname: "guest".into(),
        ..Contents::default()
    }
}

fn job(found: &HashMap<String, (u32, Vec<u8>)>) -> Job {
    Job::decode(&found["oneroof/job"].1).expect("we wrote it")
}

#[test]
fn a_command_comes_with_what_it_takes_to_run() {
    let packed = pack(&command(&["sh", "-c", "exit 7"])).expect("every test host has a shell");
    let found = entries(&bytes(&packed.archive));
    assert_eq!(found["init"].0, 0o100_755);
    assert!(found["init"].1.starts_with(b"\x7fELF"));
    assert_eq!((found["dev/console"].0, found["dev/null"].0), (0o020_600, 0o020_666));
    assert!(found.keys().any(|name| name.contains("ld-linux") || name.contains("ld-musl")));
    assert!(found.keys().any(|name| name.contains("/libc.")));
    let job = job(&found);
    assert_eq!(job.argv, [b"sh".to_vec(), b"-c".to_vec(), b"exit 7".to_vec()]);
    assert!(!job.terminal);
    assert_eq!(job.hostname, b"guest");
    let size = Initrd::size(&packed.archive);
    assert!(size < 24 << 20, "a guest of {size} bytes");
}

#[test]
fn a_missing_command_is_told_and_not_fatal() {
    let packed = pack(&command(&["no-such-command-here"])).expect("packs the rest");
    assert!(
        packed.missing.iter().any(|line| line.contains("no-such-command-here")),
        "{:?}",
        packed.missing
    );
}

#[test]
fn a_script_brings_its_interpreter_and_commands() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let script = directory.path().join("script");
    std::fs::write(&script, "#!/usr/bin/env bash\nfind / | sort\n").expect("a temporary directory");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
        .expect("our own file");
    let packed = pack(&command(&[script.to_str().expect("UTF-8")])).expect("packs");
    let found = entries(&bytes(&packed.archive));
    let name = script.to_str().expect("UTF-8").trim_start_matches('/');
    assert_eq!(found[name].0 & 0o777, 0o755);
    for program in ["env", "bash", "find", "sort"] {
        assert!(found.keys().any(|name| name.ends_with(&format!("bin/{program}"))), "{program}");
    }
}

#[test]
fn links_lead_to_the_same_file_as_on_the_host() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = std::fs::canonicalize(directory.path()).expect("it exists");
    std::fs::create_dir(root.join("real")).expect("a temporary directory");
    std::fs::write(root.join("real/data"), b"hello").expect("a temporary directory");
    std::os::unix::fs::symlink("real", root.join("by")).expect("a temporary directory");
    std::os::unix::fs::symlink("../by/data", root.join("real/again"))
        .expect("a temporary directory");
    std::fs::hard_link(root.join("real/data"), root.join("real/second"))
        .expect("a temporary directory");
    let argument = |name: &str| root.join(name).to_str().expect("UTF-8").to_owned();
    let packed =
        pack(&command(&["cat", &argument("by/again"), &argument("real/second")])).expect("packs");
    let found = entries(&bytes(&packed.archive));
    let name = |name: &str| argument(name).trim_start_matches('/').to_owned();
    assert_eq!(found[&name("by")].1, b"real");
    assert_eq!(found[&name("real/again")].1, b"../by/data");
    assert_eq!(found[&name("real/data")].1, b"hello");
    assert_eq!(found[&name("real/second")].1, argument("real/data").as_bytes());
}

#[test]
fn a_terminal_gets_its_description_and_an_unknown_one_is_told() {
    let mut contents = command(&["true"]);
    contents.terminal =
        Some(Terminal { kind: "no-such-terminal".into(), size: WindowSize::default() });
    let packed = pack(&contents).expect("packs");
    assert!(packed.missing.iter().any(|line| line.contains("TERM=no-such-terminal")));
    assert!(job(&entries(&bytes(&packed.archive))).terminal);
}

#[test]
fn modules_are_packed_plain_and_in_order() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path();
    let order = "kernel/drivers/block/virtio_blk.ko\nkernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/virtio/virtio-ring.ko\nkernel/drivers/virtio/virtio.ko\nkernel/drivers/input/evdev.ko\nkernel/fs/gone/fuse.ko\n";
    std::fs::write(root.join("modules.order"), order).expect("a temporary directory");
    std::fs::create_dir_all(root.join("kernel/drivers/virtio")).expect("a temporary directory");
    std::fs::create_dir_all(root.join("kernel/drivers/input")).expect("a temporary directory");
    std::fs::write(root.join("kernel/drivers/virtio/virtio.ko"), b"one")
        .expect("a temporary directory");
    std::fs::create_dir_all(root.join("kernel/drivers/block")).expect("a temporary directory");
    let driver = |path: &str, depends: &str| {
        let bytes = format!("ELF\0depends={depends}\0");
        std::fs::write(root.join(path), bytes).expect("a temporary directory");
    };
    driver("kernel/drivers/virtio/virtio_pci.ko", "virtio-ring,virtio");
    driver("kernel/drivers/block/virtio_blk.ko", "virtio,virtio_ring,virtio_blk,gone");
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let ring = ruzstd::encoding::compress_to_vec(b"two".as_slice(), level);
    std::fs::write(root.join("kernel/drivers/virtio/virtio-ring.ko.zst"), ring)
        .expect("a temporary directory");
    std::fs::write(root.join("kernel/drivers/input/evdev.ko"), b"three")
        .expect("a temporary directory");
    let mut contents = command(&["true"]);
    contents.modules = KernelModules::Directory(root.to_path_buf());
    let names = |contents: &Contents| {
        let found = entries(&bytes(&pack(contents).expect("packs").archive));
        let modules = job(&found).modules;
        let text = |module: &Module| String::from_utf8(module.path.clone()).expect("UTF-8");
        modules
            .iter()
            .map(|module| (text(module), found[&text(module)[1..]].1.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&contents), [("/oneroof/modules/evdev.ko".to_owned(), b"three".to_vec())]);
    contents.hardware = vec![Hardware::Disk];
    let paths: Vec<String> = names(&contents).into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        paths,
        [
            "/oneroof/modules/virtio_ring.ko",
            "/oneroof/modules/virtio.ko",
            "/oneroof/modules/virtio_pci.ko",
            "/oneroof/modules/evdev.ko",
            "/oneroof/modules/virtio_blk.ko"
        ]
    );
    assert_eq!(names(&contents)[0].1, b"two");
}

#[test]
fn in_the_hosts_user_space_nothing_but_init_and_modules_is_packed() {
    let root = HostRoot { tag: b"root".to_vec(), optional: false };
    let packed = pack(&Contents { root: Some(root.clone()), ..command(&["make", "check"]) });
    let found = entries(&bytes(&packed.expect("nothing can be missing").archive));
    let files: Vec<&String> = found
        .iter()
        .filter(|(_, (mode, _))| mode & 0o170_000 == 0o100_000)
        .map(|(n, _)| n)
        .collect();
    assert_eq!(files.len(), 2, "init and the job, not {files:?}");
    let job = job(&found);
    assert_eq!(job.argv, [b"make".to_vec(), b"check".to_vec()]);
    assert_eq!(job.root, Some(root));
    let here = std::env::current_dir().expect("tests have one").into_os_string();
    assert_eq!(job.cwd, here.as_encoded_bytes());
    let has = |name: &str| job.env.iter().any(|variable| variable.starts_with(name.as_bytes()));
    assert!(has("PATH=") && has("HOME=") && has("USER=root"));
    assert!(!has("CARGO_MANIFEST_DIR="), "variables of this process that nobody needs");
}

#[test]
fn a_root_that_may_be_lacking_has_a_replacement() {
    let root = HostRoot { tag: b"root".to_vec(), optional: true };
    let packed = pack(&Contents { root: Some(root), ..command(&["sh", "-c", "true"]) });
    let found = entries(&bytes(&packed.expect("every test host has a shell").archive));
    assert!(found.keys().any(|name| name.contains("/libc.")));
    assert!(job(&found).root.is_some());
}
