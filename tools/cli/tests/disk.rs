//! `roof disk`, as a user types it.

#[allow(dead_code, reason = "kernels are for the other tests")]
mod common;

use std::process::Output;

use common::World;

fn disk(world: &World, arguments: &[&str]) -> Output {
    world.roof().arg("disk").args(arguments).output().expect("roof was built")
}

fn good(world: &World, arguments: &[&str]) -> String {
    let output = disk(world, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn refused(world: &World, arguments: &[&str], words: &[&str]) {
    let output = disk(world, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{arguments:?}: {said}");
    assert!(!said.contains("panicked at"), "roof said: {said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is missing in: {said}");
    }
}

#[test]
fn an_image_lives_from_creation_to_conversion() {
    let world = World::new();
    good(&world, &["create", "a.qcow2", "10M"]);
    let text = good(&world, &["info", "--json", "a.qcow2"]);
    let info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(info["format"], "qcow2");
    assert_eq!(info["size"], 10 << 20);
    assert_eq!(info["backing"], serde_json::Value::Null);
    good(&world, &["resize", "a.qcow2", "+2M"]);
    assert!(good(&world, &["info", "a.qcow2"]).contains("12582912"));
    assert!(good(&world, &["check", "a.qcow2"]).contains("sound"));

    let contents: Vec<u8> = (0..3_000_320_u32).map(|n| (n / 1000) as u8).collect();
    world.file("base.img", &contents);
    good(&world, &["create", "over.qcow2", "--backing", "base.img"]);
    assert!(good(&world, &["info", "over.qcow2"]).contains("base.img (raw)"));
    good(&world, &["convert", "over.qcow2", "whole.qcow2"]);
    assert!(!good(&world, &["info", "whole.qcow2"]).contains("base.img"));
    good(&world, &["convert", "whole.qcow2", "back.img"]);
    assert!(std::fs::read(world.path("back.img")).expect("just made") == contents);
    assert!(good(&world, &["check", "back.img"]).contains("nothing that could be wrong"));
}

#[test]
fn what_cannot_be_says_why() {
    let world = World::new();
    good(&world, &["create", "a.qcow2", "10M"]);
    refused(&world, &["create", "a.qcow2", "10M"], &["cannot create", "a.qcow2", "exists already"]);
    refused(&world, &["create", "b.qcow2"], &["SIZE"]);
    refused(&world, &["create", "b.qcow2", "lots"], &["a size is like"]);
    refused(&world, &["create", "b.qcow2", "0"], &["cannot have 0 bytes"]);
    refused(&world, &["create", "b.qcow2", "--backing", "none"], &["no disk image none"]);
    refused(
        &world,
        &["create", "b.img", "1M", "--format", "raw", "--backing", "a.qcow2"],
        &["qcow2"],
    );
    assert!(!world.path("b.qcow2").exists() && !world.path("b.img").exists());
    refused(&world, &["resize", "a.qcow2", "1M"], &["would be lost", "--shrink"]);
    refused(&world, &["info", "none"], &["cannot look at none", "no disk image none"]);
    refused(&world, &["convert", "none", "c.qcow2"], &["cannot convert none"]);
    refused(&world, &["convert", "a.qcow2", "a.qcow2"], &["exists already"]);
    world.file("foreign", b"KDMV\0\0\0\0");
    refused(&world, &["check", "foreign"], &["VMDK", "qemu-img convert"]);
    let output = disk(&world, &["create", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Examples:"));
}

#[test]
fn a_damaged_image_is_1_until_it_is_repaired() {
    let world = World::new();
    good(&world, &["create", "a.qcow2", "10M"]);
    let path = world.path("a.qcow2");
    let mut bytes = std::fs::read(&path).expect("just made");
    bytes[2 * 65536 + 1] = 0; // the header counts as free
    bytes[2 * 65536 + 2 * 100 + 1] = 1; // what is not there counts as used
    std::fs::write(&path, bytes).expect("it is ours");
    let output = disk(&world, &["check", "a.qcow2"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("1 errors, 1 leaked clusters") && said.contains("--repair"), "{said}");
    assert!(good(&world, &["check", "--repair", "a.qcow2"]).contains("2 repaired"));
    good(&world, &["check", "a.qcow2"]);
}
