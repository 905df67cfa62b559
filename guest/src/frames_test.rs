//! Tests of the frame parser: examples, any split of a stream, and mutated streams.

use super::*;

/// xorshift64*: the fuzz loops must give the same bytes on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn all(parser: &mut Parser) -> Vec<Frame> {
    std::iter::from_fn(|| parser.next_frame()).collect()
}

fn parse(bytes: &[u8]) -> Vec<Frame> {
    let mut parser = Parser::default();
    parser.feed(bytes);
    all(&mut parser)
}

fn random_stream(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..random.below(8) {
        let kind = Kind::from_byte(1 + random.below(9) as u8).unwrap();
        let longest = if kind == Kind::Hello { MAX_HELLO } else { 600 };
        let length = random.below(longest);
        let payload: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        out.extend(encode(kind, random.next() as u32, &payload));
    }
    out
}

#[test]
fn a_frame_comes_back() {
    let frames = parse(&encode(Kind::Data, 7, b"abc"));
    assert_eq!(frames, vec![Frame { kind: Kind::Data, stream: 7, payload: b"abc".to_vec() }]);
}

#[test]
fn the_largest_payload_passes_and_one_more_does_not() {
    let largest = encode(Kind::Data, 1, &vec![0u8; MAX_PAYLOAD]);
    assert_eq!(parse(&largest).len(), 1);
    let mut beyond = largest;
    beyond[8..12].copy_from_slice(&(MAX_PAYLOAD as u32 + 1).to_le_bytes());
    beyond.push(0);
    assert!(parse(&beyond).is_empty());
}

#[test]
fn another_version_is_a_violation() {
    let mut bytes = encode(Kind::Request, 1, b"{}");
    bytes[2] = 2;
    bytes.extend(encode(Kind::Request, 2, b"{}"));
    bytes.extend(encode(Kind::Hello, 0, b"{}"));
    let mut parser = Parser::default();
    parser.feed(&bytes);
    let frames = all(&mut parser);
    assert_eq!(frames.len(), 1, "only the HELLO counts after a violation");
    assert_eq!(frames[0].kind, Kind::Hello);
    assert_eq!(parser.violations, 1);
}

#[test]
fn padding_of_one_frame_recovers_from_a_half_frame() {
    for sent in [1, 5, HEADER, HEADER + 1, HEADER + 40_000] {
        let mut bytes = encode(Kind::Data, 1, &vec![1u8; MAX_PAYLOAD])[..sent].to_vec();
        bytes.extend(vec![0u8; HEADER + MAX_PAYLOAD]);
        bytes.extend(encode(Kind::Hello, 0, b"new"));
        let last = parse(&bytes).pop().unwrap();
        assert_eq!((last.kind, last.payload), (Kind::Hello, b"new".to_vec()), "after {}", sent);
    }
}

#[test]
fn reset_forgets_a_half_frame() {
    let mut parser = Parser::default();
    parser.feed(&encode(Kind::Data, 1, b"lost")[..9]);
    assert!(parser.next_frame().is_none());
    parser.reset();
    parser.feed(&encode(Kind::Hello, 0, b"x"));
    assert_eq!(all(&mut parser).len(), 1);
}

#[test]
fn any_split_gives_the_same_frames() {
    let mut random = Random(0x5eed);
    for round in 0..400 {
        let mut bytes = random_stream(&mut random);
        if round % 2 == 1 && !bytes.is_empty() {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        let whole = parse(&bytes);
        let mut parser = Parser::default();
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(1 + random.below(rest.len().min(40)));
            parser.feed(piece);
            pieces.extend(all(&mut parser));
            rest = tail;
        }
        assert_eq!(whole, pieces, "round {}", round);
    }
}

#[test]
fn mutated_streams_keep_the_bounds() {
    let mut random = Random(0xbad_5eed);
    let mut parser = Parser::default();
    for _ in 0..4000 {
        let mut bytes = random_stream(&mut random);
        for _ in 0..random.below(6) {
            if bytes.is_empty() {
                break;
            }
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, random.next() as u8),
                _ => bytes.extend_from_within(at..),
            }
        }
        parser.feed(&bytes);
        for frame in all(&mut parser) {
            assert!(frame.payload.len() <= MAX_PAYLOAD);
        }
        assert!(parser.buffer.len() - parser.taken < HEADER + MAX_PAYLOAD);
    }
    // Whatever came before: one frame of padding and a HELLO bring it back.
    parser.feed(&[0u8; HEADER + MAX_PAYLOAD]);
    parser.feed(&encode(Kind::Hello, 0, b"back"));
    assert_eq!(all(&mut parser).pop().unwrap().payload, b"back");
}
