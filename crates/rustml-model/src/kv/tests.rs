use super::*;

fn pool(blocks: u32) -> KvPool {
    KvPool {
        layers: Vec::new(),
        memory: AlignedBytes::zeroed(0).unwrap(),
        stride: 0,
        free: (0..blocks).rev().collect(),
        fresh: 0,
        references: vec![0; blocks as usize],
        states: StatePool::none(),
        id: new_id(),
    }
}

#[test]
fn blocks_go_out_and_come_back() {
    let mut pool = pool(4);
    let (mut a, mut b) = (KvSequence::default(), KvSequence::default());
    assert!(pool.reserve(&mut a, 65));
    assert_eq!(a.room(), 128);
    a.advance(65);
    assert!(pool.reserve(&mut b, 64));
    for more in [129, 300, usize::MAX] {
        assert!(!pool.reserve(&mut b, more), "only one block is left");
        assert_eq!(b.blocks(), [2], "a refusal changes nothing");
    }
    assert!(pool.reserve(&mut a, 63), "the block has room");
    assert_eq!(pool.free_positions(), 64);
    pool.truncate(&mut a, 3);
    assert_eq!(
        (a.len(), a.blocks().len(), pool.free_positions()),
        (3, 1, 128)
    );
    pool.release(a);
    pool.release(b);
    let mut free = pool.free.clone();
    free.sort();
    assert_eq!(free, [0, 1, 2, 3]);
}

#[test]
fn a_shared_block_stays_until_nobody_has_it() {
    let mut pool = pool(4);
    let (mut a, mut b) = (KvSequence::default(), KvSequence::default());
    assert!(pool.reserve(&mut a, 70));
    a.advance(70);
    let kept = pool.share(&a, 0);
    pool.append(&mut b, &kept);
    assert_eq!((b.len(), b.blocks()), (64, &a.blocks()[..1]));
    assert!(pool.append_copy(&mut b, &kept, 5) && b.len() == 69);
    assert_ne!(b.blocks()[1], a.blocks()[0]);
    pool.check_writable(&b, 59);
    pool.release(a);
    assert!(pool.is_shared(&kept));
    assert_eq!(pool.free_blocks(), 2);
    pool.truncate(&mut b, 0);
    assert!(!pool.is_shared(&kept));
    pool.unshare(kept);
    assert_eq!(pool.free_blocks(), 4);
    pool.release(b);
}

#[test]
fn a_block_of_the_same_content_takes_the_place_of_the_own() {
    let mut pool = pool(3);
    let (mut a, mut b) = (KvSequence::default(), KvSequence::default());
    assert!(pool.reserve(&mut a, 64) && pool.reserve(&mut b, 64));
    a.advance(64);
    b.advance(64);
    let kept = pool.share(&a, 0);
    pool.replace(&mut b, 0, &kept);
    assert_eq!((a.blocks(), pool.free_blocks()), (b.blocks(), 2));
    pool.release(a);
    pool.release(b);
    assert_eq!(pool.free_blocks(), 2);
    pool.unshare(kept);
}

#[test]
#[should_panic(expected = "shared")]
fn nothing_is_stored_to_a_shared_block() {
    let mut pool = pool(1);
    let mut s = KvSequence::default();
    assert!(pool.reserve(&mut s, 60));
    s.advance(60);
    let _kept = pool.share(&s, 0);
    pool.check_writable(&s, 1);
}

#[test]
fn no_positions_no_room() {
    let mut pool = pool(0);
    let mut s = KvSequence::default();
    assert!(pool.reserve(&mut s, 0));
    assert!(!pool.reserve(&mut s, 1));
    assert_eq!((pool.positions(), pool.free_positions()), (0, 0));
    pool.release(s);
}

#[test]
#[should_panic(expected = "another pool")]
fn blocks_do_not_go_to_another_pool() {
    let (mut one, mut other) = (pool(1), pool(1));
    let mut s = KvSequence::default();
    assert!(one.reserve(&mut s, 1));
    other.release(s);
}

#[test]
#[should_panic(expected = "room for 64")]
fn no_more_is_counted_than_was_reserved() {
    let mut pool = pool(1);
    let mut s = KvSequence::default();
    assert!(pool.reserve(&mut s, 1));
    s.advance(65);
}
