//! The workloads: each with its class and amount, sized so that TCG needs seconds for it.

use anyhow::{Result, bail};

/// What a workload exercises; geomeans are apart by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    Integer,
    Float,
    System,
}

impl Class {
    pub(crate) const ALL: [Self; 3] = [Self::Integer, Self::Float, Self::System];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Float => "float",
            Self::System => "system",
        }
    }
}

/// A workload as the guest runs it.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) class: Class,
    pub(crate) copies: usize,
    pub(crate) kind: Kind,
}

/// Where a workload comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// One of our own, and its amount.
    Own(&'static str, u64),
    /// A program of the distribution.
    Program(Program),
}

/// A program of the distribution and its input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// What is looked for on PATH, and the Debian package it comes in.
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    /// The generated input.
    pub(crate) input: Input,
    /// The command line; `{file}` and `{amount}` are the input's, `{files}` is `{file}` eight times.
    pub(crate) line: &'static str,
    /// The input is standard input.
    pub(crate) stdin: bool,
    /// The file whose checksum counts; standard output if none.
    pub(crate) result: Option<&'static str>,
}

/// What a program works on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    /// So many KiB of text.
    Text(u64),
    /// C source with so many functions.
    C(u64),
    /// A script for sqlite3.
    Sql(u64),
    /// A file of so many MiB of zeros.
    Zeros(u64),
    /// Only a number on the command line.
    Number(u64),
    /// The Python script, and a number on the command line.
    Python(u64),
}

impl Input {
    fn scaled(self, by: f64) -> Self {
        match self {
            Self::Text(amount) => Self::Text(scale(amount, by)),
            Self::C(amount) => Self::C(scale(amount, by)),
            Self::Sql(amount) => Self::Sql(scale(amount, by)),
            Self::Zeros(amount) => Self::Zeros(scale(amount, by)),
            Self::Number(amount) => Self::Number(scale(amount, by)),
            Self::Python(amount) => Self::Python(scale(amount, by)),
        }
    }

    /// The kind that the workloads binary generates, and how much of it.
    pub(crate) fn generated(self) -> Option<(&'static str, u64)> {
        match self {
            Self::Text(amount) => Some(("text", amount)),
            Self::C(amount) => Some(("c", amount)),
            Self::Sql(amount) => Some(("sql", amount)),
            Self::Zeros(_) | Self::Number(_) | Self::Python(_) => None,
        }
    }

    /// The file's name in the work folder.
    pub(crate) fn file(self) -> String {
        match self {
            Self::Text(amount) => format!("text-{amount}"),
            Self::C(amount) => format!("source-{amount}.c"),
            Self::Sql(amount) => format!("script-{amount}.sql"),
            Self::Zeros(amount) => format!("zeros-{amount}"),
            Self::Number(_) => String::new(),
            Self::Python(_) => "script.py".into(),
        }
    }

    fn amount(self) -> u64 {
        match self {
            Self::Text(amount)
            | Self::C(amount)
            | Self::Sql(amount)
            | Self::Zeros(amount)
            | Self::Number(amount)
            | Self::Python(amount) => amount,
        }
    }
}

fn scale(amount: u64, by: f64) -> u64 {
    ((amount as f64 * by).round() as u64).max(1)
}

/// Our own: name, class, amount (the units are guest/workloads').
const OWN: &[(&str, Class, u64)] = &[
    ("sieve", Class::Integer, 1000),
    ("qsort", Class::Integer, 160),
    ("fib", Class::Integer, 39),
    ("mix", Class::Integer, 8000),
    ("indirect", Class::Integer, 80),
    ("chase", Class::Integer, 120),
    ("memcpy", Class::Integer, 3000),
    ("matmul", Class::Float, 20),
    ("libm", Class::Float, 32),
    ("x87", Class::Float, 200),
    ("avx2", Class::Float, 100),
    ("aes", Class::Float, 800),
    ("syscall", Class::System, 6000),
    ("signal", Class::System, 150),
    ("fork", Class::System, 3000),
    ("exec", Class::System, 1000),
    ("pipe", Class::System, 80),
    ("switch", Class::System, 240),
    ("pagefault", Class::System, 500),
    ("files", Class::System, 30),
    ("jit", Class::System, 20),
];

const KEY: &str = "000102030405060708090a0b0c0d0e0f";

/// Amounts that a scale must not touch: fib's grows by the power.
const UNSCALED: &[&str] = &["fib"];

/// The distribution's.
fn programs() -> Vec<(&'static str, Class, Program)> {
    use Input::{C, Number, Python, Sql, Text, Zeros};
    let program = |program, package, input, line| Program {
        program,
        package,
        input,
        line,
        stdin: false,
        result: None,
    };
    let openssl = |input, line| program("openssl", "openssl", input, line);
    let gzip = program("gzip", "gzip", Text(12000), "gzip -6 -n -c {file}");
    let xz = program("xz", "xz-utils", Text(2000), "xz -6 -T1 -c {file}");
    let zstd = program("zstd", "zstd", Text(12000), "zstd -q -9 --single-thread -c {file}");
    let seven = "7zr a -bd -mmt1 -mx3 -mtm- -mtc- -mta- result.7z {file}";
    let seven = Program { result: Some("result.7z"), ..program("7zr", "p7zip", Text(6000), seven) };
    let sql = Program {
        stdin: true,
        ..program("sqlite3", "sqlite3", Sql(800), "sqlite3 -batch :memory:")
    };
    let sha = program("sha256sum", "coreutils", Text(12000), "sha256sum {files}");
    let python = program("python3", "python3-minimal", Python(60), "python3 -S -E {file} {amount}");
    let cc1 = program("cc1", "gcc", C(100), "cc1 -quiet -fpreprocessed -O2 {file} -o -");
    vec![
        ("gzip", Class::Integer, gzip),
        ("xz", Class::Integer, xz),
        ("zstd", Class::Integer, zstd),
        ("7zr", Class::Integer, seven),
        ("sha256sum", Class::Integer, sha),
        ("sqlite3", Class::Integer, sql),
        ("python3", Class::Integer, python),
        ("cc1", Class::Integer, cc1),
        ("openssl-sha256", Class::Float, openssl(Text(12000), "openssl dgst -sha256 {files}")),
        (
            "openssl-sha512",
            Class::Float,
            openssl(
                Number(200),
                "openssl kdf -keylen 32 -kdfopt digest:SHA512 -kdfopt pass:roof -kdfopt salt:one \
                 -kdfopt iter:{amount}000 PBKDF2",
            ),
        ),
        (
            "openssl-cmac",
            Class::Float,
            openssl(
                Zeros(128),
                "openssl mac -cipher AES-128-CBC -macopt hexkey:{key} -in {file} CMAC",
            ),
        ),
        (
            "openssl-gmac",
            Class::Float,
            openssl(
                Zeros(512),
                "openssl mac -cipher AES-128-GCM -macopt hexkey:{key} -macopt hexiv:{key} \
                 -in {file} GMAC",
            ),
        ),
        ("openssl-modexp", Class::Float, openssl(Number(4), "openssl prime -hex {primes}")),
    ]
}

/// The 2048-bit prime 2^2048 - 2^1984 - 1 + 2^64 * ([2^1918 pi] + 124476) of RFC 3526, section 3.
const PRIME: &str = "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245\
E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE6\
49286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD96\
1C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE5\
15D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF";

/// The workloads whose name or class is in `only`, or all.
pub(crate) fn select(only: &[String], by: f64) -> Result<Vec<Task>> {
    let own = OWN.iter().map(|(name, class, amount)| {
        let amount = if UNSCALED.contains(name) { *amount } else { scale(*amount, by) };
        task(name, *class, Kind::Own(name, amount))
    });
    let others = programs().into_iter().map(|(name, class, program)| {
        let input = program.input.scaled(by);
        task(name, class, Kind::Program(Program { input, ..program }))
    });
    let mut all: Vec<Task> = own.chain(others).collect();
    for wish in only {
        if !all.iter().any(|task| task.is(wish)) {
            let names: Vec<&str> = all.iter().map(|task| task.name.as_str()).collect();
            bail!("there is no workload {wish}; there are {}", names.join(", "));
        }
    }
    all.retain(|task| only.is_empty() || only.iter().any(|wish| task.is(wish)));
    all.sort_by_key(|task| Class::ALL.iter().position(|class| *class == task.class));
    Ok(all)
}

fn task(name: &str, class: Class, kind: Kind) -> Task {
    Task { name: name.to_owned(), class, copies: 1, kind }
}

impl Task {
    fn is(&self, wish: &str) -> bool {
        self.name == wish || self.class.name() == wish
    }

    /// The program and the package it is in, unless it is our own.
    pub(crate) fn package(&self) -> Option<(&'static str, &'static str)> {
        match self.kind {
            Kind::Own(..) => None,
            // The compiler proper is not on PATH; its driver is.
            Kind::Program(Program { program: "cc1", package, .. }) => Some(("gcc", package)),
            Kind::Program(Program { program, package, .. }) => Some((program, package)),
        }
    }

    /// The plan's line; `path` finds the program's file.
    pub(crate) fn line(&self, path: &dyn Fn(&str) -> Result<String>) -> Result<String> {
        let (stdin, result, words) = match &self.kind {
            Kind::Own(name, amount) => {
                ("-".into(), "-", vec!["@self".into(), (*name).into(), amount.to_string()])
            }
            Kind::Program(program) => {
                let mut words: Vec<String> =
                    program.line.split_whitespace().flat_map(|word| program.word(word)).collect();
                words[0] = path(program.program)?;
                let stdin = if program.stdin { program.input.file() } else { "-".into() };
                (stdin, program.result.unwrap_or("-"), words)
            }
        };
        let (name, copies) = (&self.name, self.copies);
        Ok(format!("task\t{name}\t{copies}\t{stdin}\t{result}\t{}\n", words.join("\t")))
    }
}

impl Program {
    /// A word of the command line with its places filled.
    fn word(&self, word: &str) -> Vec<String> {
        let amount = self.input.amount();
        match word {
            "{files}" => vec![self.input.file(); 8],
            "{primes}" => vec![PRIME.to_owned(); amount as usize],
            _ => vec![
                word.replace("{file}", &self.input.file())
                    .replace("{amount}", &amount.to_string())
                    .replace("{key}", KEY),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_classes_select() {
        assert_eq!(select(&["sieve".into()], 1.0).unwrap().len(), 1);
        let floats = select(&["float".into()], 1.0).unwrap();
        assert!(floats.len() > 5 && floats.iter().all(|task| task.class == Class::Float));
        assert!(select(&["poetry".into()], 1.0).is_err());
    }

    #[test]
    fn lines_are_filled() {
        let tasks = select(&[], 0.5).unwrap();
        for task in &tasks {
            let line = task.line(&|program| Ok(format!("/bin/{program}"))).unwrap();
            assert!(!line.contains('{') && line.split('\t').count() > 6, "{line}");
        }
        let gzip = tasks.iter().find(|task| task.name == "gzip").unwrap();
        let line = gzip.line(&|_| Ok("/bin/gzip".into())).unwrap();
        assert_eq!(line, "task\tgzip\t1\t-\t-\t/bin/gzip\t-6\t-n\t-c\ttext-6000\n");
    }
}
