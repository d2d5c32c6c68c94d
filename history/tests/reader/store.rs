//! What the store gives, or does not.

use crate::made::{
    Made, all, bucket_of_now, config, keep_all, large, of_site, path, reader_of, small, store_of,
};
use futures::FutureExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, PutOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tidemark_history::faults::{Action, Faults, FaultyStore};
use tidemark_history::reader::{Keep, ReadError, Reader, Want};
use tidemark_history::store::{Operation, Store};
use tidemark_proto::v1;

async fn error_of(store: &Store, made: &Made, segment: &v1::Segment) -> ReadError {
    let reader = reader_of(store, made).await;
    reader.rollups(segment, &all(), &keep_all(made.shards)).await.unwrap_err()
}

#[tokio::test]
async fn a_burst_of_the_same_question_reads_once() {
    let made = small(&path(1));
    let (faulty, store) = store_of(&[&made]).await;
    faulty
        .set(Faults { slow: Some(Duration::from_millis(2)..Duration::from_millis(3)), ..Faults::default() });
    let reader = reader_of(&store, &made).await;
    let (want, keep) = (all(), keep_all(made.shards));
    let asked = (0..50).map(|_| reader.rollups(&made.segment, &want, &keep));
    let came = futures::future::join_all(asked).await;
    assert!(came.into_iter().all(|came| came.unwrap().len() == 1));
    assert_eq!(faulty.calls(Operation::Get), 1);
}

#[tokio::test]
async fn a_burst_of_questions_about_a_small_segment_fetches_it_once() {
    let made = small(&path(1));
    let (faulty, store) = store_of(&[&made]).await;
    // A store that answers at once leaves nobody waiting beside the first one: the questions would follow one another.
    faulty
        .set(Faults { slow: Some(Duration::from_millis(2)..Duration::from_millis(3)), ..Faults::default() });
    let reader = reader_of(&store, &made).await;
    let keep = keep_all(made.shards);
    let wants = ["site0.com", "site1.com", "site2.com", "site3.com"].map(of_site);
    let came =
        futures::future::join_all(wants.iter().map(|want| reader.rollups(&made.segment, want, &keep))).await;
    assert!(came.into_iter().all(|came| came.unwrap().len() == 1));
    assert_eq!(faulty.calls(Operation::Get), 1);
}

#[tokio::test]
async fn a_burst_on_other_threads_reads_a_large_segment_once() {
    let made = large(&path(1), 12_000);
    assert!(made.bytes.len() > 256 << 10);
    let (faulty, store) = store_of(&[&made]).await;
    let reader = reader_of(&store, &made).await;
    let asked = (0..8).map(|_| {
        let (reader, segment, keep) = (reader.clone(), made.segment.clone(), keep_all(made.shards));
        tokio::spawn(async move { reader.rollups(&segment, &all(), &keep).await })
    });
    for came in futures::future::join_all(asked).await {
        assert_eq!(came.unwrap().unwrap()[0].row_count(), 12_000);
    }
    // The footer, and the rest.
    assert_eq!(faulty.calls(Operation::Get), 2);
}

#[tokio::test]
async fn a_question_reads_no_more_of_a_large_segment_than_it_needs() {
    let made = large(&path(1), 40_000);
    let (_, store) = store_of(&[&made]).await;
    let reader = reader_of(&store, &made).await;
    let views = all().measures.into_iter().filter(|measure| measure.name == "views").collect();
    let want = Want { dimensions: Vec::new(), measures: views, with_urls: false, ..all() };
    let keep = keep_all(made.shards);
    assert_eq!(reader.rollups(&made.segment, &want, &keep).await.unwrap()[0].row_count(), 4);
    assert!(reader.usage().fetched_bytes < made.segment.size_bytes / 2, "{:?}", reader.usage());
    let elsewhere = Want { site: Some("elsewhere.com".to_owned()), ..want };
    let before = reader.usage().fetches;
    assert!(reader.rollups(&made.segment, &elsewhere, &keep).await.unwrap().is_empty());
    assert_eq!(reader.usage().fetches, before);
}

#[tokio::test]
async fn bloom_filters_save_what_holds_none_of_the_urls() {
    let made = large(&path(1), 40_000);
    let (faulty, store) = store_of(&[&made]).await;
    let reader = reader_of(&store, &made).await;
    let keep = keep_all(made.shards);
    let there = made.groups[1].urls[made.groups[1].urls.len() / 2].clone();
    let middle = |urls: Vec<String>| Want { urls: Some(urls), ..all() };
    let came = reader.rollups(&made.segment, &middle(vec![there]), &keep).await.unwrap();
    assert_eq!(came[0].row_count(), 1);
    assert!(reader.usage().fetched_bytes < made.segment.size_bytes * 2 / 3, "{:?}", reader.usage());
    // The footer, the filters, and one row group and the facts of all.
    assert_eq!(faulty.calls(Operation::Get), 3);
}

#[tokio::test]
async fn a_segment_that_is_not_there_is_gone() {
    for made in [small(&path(1)), large(&path(2), 12_000)] {
        let (_, store) = store_of(&[&made]).await;
        let reader = reader_of(&store, &made).await;
        let keep = keep_all(made.shards);
        reader.rollups(&made.segment, &of_site("site1.com"), &keep).await.unwrap();
        store.delete(&made.segment.path).await.unwrap();
        // What is in memory was true, and no byte of it has changed.
        reader.rollups(&made.segment, &of_site("site1.com"), &keep).await.unwrap();
        for reader in [reader, reader_of(&store, &made).await] {
            let error = reader.rollups(&made.segment, &all(), &keep).await.unwrap_err();
            assert!(matches!(&error, ReadError::Gone { path } if *path == made.segment.path), "{error}");
        }
    }
}

#[tokio::test]
async fn a_damaged_segment_is_an_error_that_names_it() {
    for made in [small(&path(1)), large(&path(2), 12_000)] {
        let len = made.bytes.len();
        for at in (0..16).map(|part| len / 16 * part + 6).chain([len - 5]) {
            let mut bytes = made.bytes.to_vec();
            bytes[at] ^= 16;
            let damaged = Made { bytes: bytes.into(), ..made.clone() };
            let (_, store) = store_of(&[&damaged]).await;
            let reader = reader_of(&store, &made).await;
            match reader.rollups(&made.segment, &all(), &keep_all(made.shards)).await {
                Err(ReadError::Damaged(error)) => assert_eq!(error.path(), made.segment.path),
                // Columns for other programs, and filters, are not read of large segments.
                Ok(came) => assert!(len > 256 << 10 && came[0].row_count() == 12_000, "byte {at}"),
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }
}

#[tokio::test]
async fn a_segment_cut_short_is_damaged() {
    for made in [small(&path(1)), large(&path(2), 12_000)] {
        let cut = Made { bytes: made.bytes.slice(..made.bytes.len() - 100), ..made.clone() };
        let (_, store) = store_of(&[&cut]).await;
        let error = error_of(&store, &made, &made.segment).await;
        assert!(
            matches!(error, ReadError::Damaged(_)) && error.to_string().contains(&made.segment.path),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_commit_that_makes_no_sense_is_an_error_that_names_the_segment() {
    let made = small(&path(1));
    let (_, store) = store_of(&[&made]).await;
    for segment in [
        v1::Segment { footer_bytes: u64::MAX, ..made.segment.clone() },
        v1::Segment { footer_bytes: 3, ..made.segment.clone() },
        v1::Segment { size_bytes: 0, footer_bytes: 0, ..made.segment.clone() },
        v1::Segment { rows: 7, ..made.segment.clone() },
        v1::Segment { checksum: 7, ..made.segment.clone() },
    ] {
        let error = error_of(&store, &made, &segment).await;
        assert!(
            matches!(error, ReadError::Damaged(_)) && error.to_string().contains(&segment.path),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_segment_of_another_cluster_is_refused() {
    let made = small(&path(1));
    let (_, store) = store_of(&[&made]).await;
    let shards = tidemark_rollup::sharding::ShardCount::new(8).unwrap();
    let reader = Reader::open(store, config(shards)).await;
    let error = reader.rollups(&made.segment, &all(), &keep_all(shards)).await.unwrap_err().to_string();
    assert!(error.contains("4 shards, and this one has 8"), "{error}");
}

#[tokio::test]
async fn a_bad_copy_is_fetched_again() {
    for made in [small(&path(1)), large(&path(2), 12_000)] {
        let mut bad = made.bytes.to_vec();
        let footer = bad.len() - 50;
        (bad[50], bad[footer]) = (bad[50] ^ 1, bad[footer] ^ 1);
        let inner = Arc::new(InMemory::new());
        let faulty = FaultyStore::new(Arc::clone(&inner) as Arc<dyn ObjectStore>, 7);
        let store = Store::of(Arc::new(faulty.clone()));
        store.put(&made.segment.path, bad.into()).await.unwrap();
        let (asked, good) = (AtomicU32::new(0), made.bytes.clone());
        faulty.set_hook(move |_, path| {
            if asked.fetch_add(1, Ordering::Relaxed) == 1 {
                let path = Path::from(path);
                let put = inner.put_opts(&path, good.clone().into(), PutOptions::default());
                put.now_or_never().unwrap().unwrap();
            }
            Action::Pass
        });
        let reader = reader_of(&store, &made).await;
        let came = reader.rollups(&made.segment, &all(), &keep_all(made.shards)).await.unwrap();
        assert_eq!(came[0].row_count() as u64, made.segment.rows);
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_asked_again_and_then_an_error_that_names_the_segment() {
    let made = small(&path(1));
    let (faulty, store) = store_of(&[&made]).await;
    let failed = AtomicU32::new(0);
    faulty.set_hook(move |_, _| match failed.fetch_add(1, Ordering::Relaxed) {
        0..2 => Action::Fail,
        _ => Action::Pass,
    });
    let reader = reader_of(&store, &made).await;
    let keep = keep_all(made.shards);
    reader.rollups(&made.segment, &of_site("site1.com"), &keep).await.unwrap();
    faulty.set_hook(|_, _| Action::Fail);
    let mut impatient = config(made.shards);
    impatient.retry.give_up = Some(Duration::from_millis(5));
    let reader = Reader::open(store, impatient).await;
    let error = reader.rollups(&made.segment, &all(), &keep).await.unwrap_err();
    assert!(
        matches!(error, ReadError::Store(_)) && error.to_string().contains(&made.segment.path),
        "{error}"
    );
}

#[tokio::test]
async fn what_nobody_keeps_is_not_read() {
    let made = small(&path(1));
    let (_, store) = store_of(&[&made]).await;
    let reader = reader_of(&store, &made).await;
    assert!(reader.rollups(&made.segment, &all(), &Keep::default()).await.unwrap().is_empty());
    let never = Want { to: bucket_of_now(), ..all() };
    assert!(reader.rollups(&made.segment, &never, &keep_all(made.shards)).await.unwrap().is_empty());
    assert_eq!(reader.usage().misses, 0);
}
