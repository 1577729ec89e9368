//! A state machine that recognizes numbers in text, character by character.

#[derive(Clone, Copy, PartialEq)]
enum State {
    Start,
    Sign,
    Integer,
    Fraction,
    Exponent,
    ExponentSign,
    Scientific,
    Invalid,
}

const WORDS: [&[u8]; 8] = [
    b"5012,",
    b"-874,",
    b"+122,",
    b"35.54400,",
    b".1234500,",
    b"-110.700,",
    b"5.500e+3,",
    b"T0.3e-1F,",
];

/// Recognizes words picked by the seed; counts of the final states, packed.
pub(super) fn run(seed: u16) -> u16 {
    let mut counts = [0u16; 8];
    for index in 0..24 {
        let word = WORDS[usize::from(seed.rotate_left(index) & 7)];
        counts[recognize(word, (seed >> (index & 7)) as u8 & 1) as usize] += 1;
    }
    counts.iter().fold(seed, |sum, count| sum.rotate_left(2) ^ count)
}

/// The state in which a word ends; `damage` is put into its second character.
fn recognize(word: &[u8], damage: u8) -> State {
    let mut state = State::Start;
    for (index, byte) in word.iter().enumerate() {
        let byte = if index == 1 { byte ^ damage } else { *byte };
        if byte == b',' {
            break;
        }
        state = next(state, byte);
    }
    state
}

fn next(state: State, byte: u8) -> State {
    match (state, byte) {
        (State::Start, b'+' | b'-') => State::Sign,
        (State::Start | State::Sign | State::Integer, b'0'..=b'9') => State::Integer,
        (State::Start | State::Sign | State::Integer, b'.') => State::Fraction,
        (State::Fraction, b'0'..=b'9') => State::Fraction,
        (State::Integer | State::Fraction, b'e' | b'E') => State::Exponent,
        (State::Exponent, b'+' | b'-') => State::ExponentSign,
        (State::ExponentSign | State::Scientific, b'0'..=b'9') => State::Scientific,
        _ => State::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_apart() {
        assert!(recognize(b"5012,", 0) == State::Integer);
        assert!(recognize(b"5.500e+3,", 0) == State::Scientific);
        assert!(recognize(b"T0.3e-1F,", 0) == State::Invalid);
        assert!(recognize(b"-110.700", 0) == State::Fraction);
    }
}
