//! What is held in memory.

use crate::made::{all, config, keep_all, large, of_site, path, reader_of, small, store_of};
use std::sync::Arc;
use tidemark_history::reader::{Reader, ReaderConfig, Want};
use tidemark_history::store::Operation;

#[tokio::test]
async fn memory_holds_no_more_than_it_may_and_what_was_used_last() {
    let segments: Vec<_> = (0..40).map(|n| small(&path(n))).collect();
    let (_, store) = store_of(&segments.iter().collect::<Vec<_>>()).await;
    let keep = keep_all(segments[0].shards);
    let alone = reader_of(&store, &segments[0]).await;
    alone.rollups(&segments[0].segment, &all(), &keep).await.unwrap();
    let memory_bytes = alone.usage().memory_bytes * 10;

    let config = ReaderConfig { memory_bytes, ..config(segments[0].shards) };
    let reader = Reader::open(store, config).await;
    for made in &segments {
        let came = reader.rollups(&made.segment, &all(), &keep).await.unwrap();
        assert_eq!(came.iter().map(|bucket| bucket.row_count()).sum::<usize>(), 100);
        assert!(reader.usage().memory_bytes <= memory_bytes);
    }
    assert!(reader.usage().memory_bytes > memory_bytes / 2);
    let before = reader.usage();
    for made in &segments[35..] {
        reader.rollups(&made.segment, &all(), &keep).await.unwrap();
    }
    assert_eq!((reader.usage().hits, reader.usage().fetches), (before.hits + 5, before.fetches));
    reader.rollups(&segments[0].segment, &all(), &keep).await.unwrap();
    assert_eq!(reader.usage().misses, before.misses + 1);
}

#[tokio::test]
async fn a_part_that_is_too_large_is_not_held_and_pushes_nothing_out() {
    let (big, little) = (large(&path(1), 5_000), small(&path(2)));
    let (_, store) = store_of(&[&big, &little]).await;
    let keep = keep_all(big.shards);
    let config = ReaderConfig { memory_bytes: 1 << 20, ..config(big.shards) };
    let reader = Reader::open(store, config).await;
    reader.rollups(&little.segment, &of_site("site1.com"), &keep).await.unwrap();
    for _ in 0..2 {
        reader.rollups(&big.segment, &all(), &keep).await.unwrap();
        reader.rollups(&little.segment, &of_site("site1.com"), &keep).await.unwrap();
    }
    assert_eq!((reader.usage().misses, reader.usage().hits), (3, 2));
}

#[tokio::test]
async fn what_comes_from_memory_is_the_very_same() {
    let made = small(&path(1));
    let (faulty, store) = store_of(&[&made]).await;
    let reader = reader_of(&store, &made).await;
    let keep = keep_all(made.shards);
    let first = reader.rollups(&made.segment, &all(), &keep).await.unwrap();
    let second = reader.rollups(&made.segment, &all(), &keep).await.unwrap();
    assert!(first.iter().zip(&second).all(|(a, b)| Arc::ptr_eq(a, b)) && first.len() == second.len());
    assert_eq!(faulty.calls(Operation::Get), 1);
}

#[tokio::test]
async fn parts_without_urls_take_little_room() {
    let made = large(&path(1), 5_000);
    let (_, store) = store_of(&[&made]).await;
    let keep = keep_all(made.shards);
    let mut bytes = Vec::new();
    for with_urls in [true, false] {
        let reader = reader_of(&store, &made).await;
        let measures = all().measures[..1].to_vec();
        let want = Want { dimensions: Vec::new(), measures, with_urls, ..all() };
        reader.rollups(&made.segment, &want, &keep).await.unwrap();
        bytes.push(reader.usage().memory_bytes);
    }
    assert!(bytes[1] * 10 < bytes[0], "{bytes:?}");
}
