//! What Python reads for a script: its own modules, compiled ones too, and nothing else of the
//! standard library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::tree::Tree;

/// Runs the script once and prints the files that its modules came from.
const ASK: &str = "\
import runpy, sys
sys.argv = [sys.argv[1], '1']
runpy.run_path(sys.argv[0])
print('@files')
for module in list(sys.modules.values()):
    for name in (getattr(module, '__file__', None), getattr(module, '__cached__', None)):
        if name: print(name)
";

/// Adds the modules that a script imports, and the landmarks by which Python finds its library.
pub(super) fn add(tree: &mut Tree, python: &Path, script: &Path) -> Result<()> {
    let output = Command::new(python)
        .args(["-S", "-E", "-c", ASK])
        .arg(script)
        .output()
        .with_context(|| python.display().to_string())?;
    if !output.status.success() {
        bail!("{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let files = text.split_once("@files\n").map_or("", |(_, files)| files);
    for file in files.lines().map(Path::new).filter(|file| file.is_file()) {
        if file.extension().is_some_and(|kind| kind == "so") {
            tree.add_program(file)?;
        } else {
            tree.add(file)?;
        }
    }
    for landmark in landmarks(files) {
        tree.add(&landmark)?;
    }
    Ok(())
}

/// os.py and any shared object of lib-dynload: Python looks for them to find its prefixes.
fn landmarks(files: &str) -> Vec<PathBuf> {
    let Some(json) = files.lines().find(|file| file.ends_with("/json/__init__.py")) else {
        return Vec::new();
    };
    let library = Path::new(json).ancestors().nth(2).expect("two folders up");
    let dynamic = fs::read_dir(library.join("lib-dynload")).ok();
    let one = dynamic.and_then(|mut entries| Some(entries.next()?.ok()?.path()));
    [Some(library.join("os.py")), one].into_iter().flatten().filter(|path| path.is_file()).collect()
}
