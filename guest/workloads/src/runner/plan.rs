//! The plan's text: a step per line, fields apart by tabs.
//!
//! ```text
//! sparse  FILE  BYTES
//! task    NAME  COPIES  STDIN|-  RESULT|-  PROGRAM  ARGUMENT...
//! ```
//! RESULT is the file whose checksum is told, `-` for standard output. PROGRAM `@self` is this
//! binary. COPIES run at the same time; all must give the same result.

/// A plan.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
}

/// One step.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// A file of zeros that takes no room.
    Sparse { file: String, bytes: u64 },
    /// A measured program.
    Task(Task),
}

/// A measured program.
#[derive(Debug, PartialEq)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) copies: usize,
    pub(crate) stdin: Option<String>,
    pub(crate) result: Option<String>,
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
}

impl Plan {
    /// Reads a plan; a sentence about the first line that is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
        let steps = lines
            .map(|(number, line)| {
                step(line).ok_or_else(|| format!("line {} of the plan: {line}", number + 1))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }
}

fn step(line: &str) -> Option<Step> {
    let fields: Vec<&str> = line.split('\t').collect();
    let given = |field: &str| (field != "-").then(|| field.to_owned());
    match fields.as_slice() {
        ["sparse", file, bytes] => {
            Some(Step::Sparse { file: (*file).to_owned(), bytes: bytes.parse().ok()? })
        }
        ["task", name, copies, stdin, result, program, arguments @ ..] => Some(Step::Task(Task {
            name: (*name).to_owned(),
            copies: copies.parse().ok().filter(|copies| (1..=64).contains(copies))?,
            stdin: given(stdin),
            result: given(result),
            program: (*program).to_owned(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read() {
        let plan = Plan::parse("sparse\tzero\t4096\n\ntask\ta\t2\tin\t-\tcat\t-n\tx\n").unwrap();
        assert_eq!(plan.steps[0], Step::Sparse { file: "zero".into(), bytes: 4096 });
        let Step::Task(task) = &plan.steps[1] else { panic!("a task") };
        assert_eq!((task.copies, task.stdin.as_deref()), (2, Some("in")));
        assert_eq!((task.result.as_deref(), task.arguments.len()), (None, 2));
    }

    #[test]
    fn what_is_no_plan_is_told_with_its_line() {
        assert!(Plan::parse("\ntask\ta\t0\t-\t-\tcat").unwrap_err().contains("line 2"));
        assert!(Plan::parse("dance").is_err());
    }
}
