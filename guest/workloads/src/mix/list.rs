//! A linked list in an arena: searched, reversed, sorted by merging.

const LENGTH: usize = 64;
const END: u8 = u8::MAX;

#[derive(Clone, Copy, Default)]
struct Node {
    value: u16,
    next: u8,
}

/// Builds a list from the seed, works on it; a checksum of its final order.
pub(super) fn run(seed: u16) -> u16 {
    let mut nodes = [Node::default(); LENGTH];
    for (index, node) in nodes.iter_mut().enumerate() {
        let value = seed.rotate_left(index as u32).wrapping_mul(40_503) ^ index as u16;
        *node = Node { value, next: index as u8 + 1 };
    }
    nodes[LENGTH - 1].next = END;
    let mut head = reverse(&mut nodes, 0);
    let found = (0..8).map(|index| find(&nodes, head, seed ^ index)).sum::<u16>();
    head = sort(&mut nodes, head, LENGTH);
    let mut sum = found;
    while head != END {
        let node = nodes[usize::from(head)];
        sum = sum.rotate_left(1) ^ node.value;
        head = node.next;
    }
    sum
}

fn reverse(nodes: &mut [Node; LENGTH], mut head: u8) -> u8 {
    let mut done = END;
    while head != END {
        let node = &mut nodes[usize::from(head)];
        (head, node.next, done) = (node.next, done, head);
    }
    done
}

/// The place of the first value whose low five bits are the wanted ones'.
fn find(nodes: &[Node; LENGTH], mut head: u8, wanted: u16) -> u16 {
    let mut place = 0;
    while head != END {
        let node = nodes[usize::from(head)];
        if (node.value ^ wanted) & 31 == 0 {
            return place;
        }
        head = node.next;
        place += 1;
    }
    place
}

/// Sorts the `length` nodes from `head`; the new head.
fn sort(nodes: &mut [Node; LENGTH], head: u8, length: usize) -> u8 {
    if length < 2 {
        return head;
    }
    let mut last = head;
    for _ in 1..length / 2 {
        last = nodes[usize::from(last)].next;
    }
    let middle = std::mem::replace(&mut nodes[usize::from(last)].next, END);
    let left = sort(nodes, head, length / 2);
    let right = sort(nodes, middle, length - length / 2);
    merge(nodes, left, right)
}

fn merge(nodes: &mut [Node; LENGTH], mut left: u8, mut right: u8) -> u8 {
    let mut first = END;
    let mut last = END;
    while left != END || right != END {
        let from_left = right == END
            || left != END && nodes[usize::from(left)].value <= nodes[usize::from(right)].value;
        let from = if from_left { &mut left } else { &mut right };
        let taken = std::mem::replace(from, nodes[usize::from(*from)].next);
        if last == END {
            first = taken;
        } else {
            nodes[usize::from(last)].next = taken;
        }
        last = taken;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_out_sorted_and_whole() {
        let mut nodes = [Node::default(); LENGTH];
        for (index, node) in nodes.iter_mut().enumerate() {
            *node = Node { value: (index as u16).wrapping_mul(7919) % 101, next: index as u8 + 1 };
        }
        nodes[LENGTH - 1].next = END;
        let mut head = sort(&mut nodes, 0, LENGTH);
        let mut values = Vec::new();
        while head != END {
            values.push(nodes[usize::from(head)].value);
            head = nodes[usize::from(head)].next;
        }
        assert!(values.len() == LENGTH && values.is_sorted());
    }
}
