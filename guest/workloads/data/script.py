# The Python workload: objects, dictionaries, strings, sorting, parsing; prints one checksum.
import collections
import heapq
import json
import re
import sys


class Shape:
    def __init__(self, width, height):
        self.width, self.height = width, height

    def area(self):
        return self.width * self.height


class Square(Shape):
    def __init__(self, side):
        super().__init__(side, side)


def shapes(count):
    return sum((Square(i % 17) if i % 3 else Shape(i % 5, i % 7)).area() for i in range(count))


def words(count):
    text = " ".join("w%d x%d" % (i * 7919 % 331, i % 13) for i in range(count))
    counts = collections.Counter(re.findall(r"[a-z]\d+", text))
    return sum(n * len(word) for word, n in counts.most_common(50))


def paths(size):
    edges = {i: [((i * 7 + k * 13) % size, (i * k) % 9 + 1) for k in range(1, 5)] for i in range(size)}
    best, queue = {0: 0}, [(0, 0)]
    while queue:
        cost, node = heapq.heappop(queue)
        if cost > best[node]:
            continue
        for other, weight in edges[node]:
            if cost + weight < best.get(other, 1 << 30):
                best[other] = cost + weight
                heapq.heappush(queue, (cost + weight, other))
    return sum(best.values())


def documents(count):
    rows = [{"id": i, "name": "n%d" % (i % 97), "tags": [i % 3, i % 5]} for i in range(count)]
    back = json.loads(json.dumps(rows))
    back.sort(key=lambda row: (row["name"], -row["id"]))
    return sum(row["id"] * (place % 11) for place, row in enumerate(back))


def queens(size, columns=0, left=0, right=0):
    full, count = (1 << size) - 1, 0
    if columns == full:
        return 1
    free = full & ~(columns | left | right)
    while free:
        bit = free & -free
        free ^= bit
        count += queens(size, columns | bit, (left | bit) << 1, (right | bit) >> 1)
    return count


amount, total = int(sys.argv[1]), 0
for turn in range(amount):
    parts = (shapes(2000), words(1000), paths(300), documents(300), queens(6))
    for part in parts:
        total = (total * 31 + part + turn) % (1 << 61)
print(total)
