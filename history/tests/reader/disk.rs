//! What is kept on disk.

use crate::made::{Made, all, config, keep_all, large, of_site, path, small, store_of};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use tidemark_history::faults::{Action, FaultyStore};
use tidemark_history::reader::{Reader, ReaderConfig, Want};
use tidemark_history::store::{Operation, Store};

fn cached(folder: &Path, disk_bytes: u64, made: &Made) -> ReaderConfig {
    ReaderConfig { disk_dir: Some(folder.to_owned()), disk_bytes, ..config(made.shards) }
}

async fn reader_at(folder: &Path, store: &Store, made: &Made) -> Reader {
    Reader::open(store.clone(), cached(folder, 64 << 20, made)).await
}

async fn rows(reader: &Reader, made: &Made, want: &Want) -> usize {
    let came = reader.rollups(&made.segment, want, &keep_all(made.shards)).await.unwrap();
    reader.settled().await;
    came.iter().map(|bucket| bucket.row_count()).sum()
}

fn pieces(folder: &Path) -> Vec<fs::DirEntry> {
    let files = fs::read_dir(folder).unwrap().map(Result::unwrap);
    files.filter(|file| file.file_name().to_str().unwrap().ends_with(".piece")).collect()
}

fn bytes_in(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// Both kinds of segment, each in a store of its own.
async fn both() -> Vec<(Made, FaultyStore, Store)> {
    let mut both = Vec::new();
    for made in [small(&path(1)), large(&path(2), 12_000)] {
        let (faulty, store) = store_of(&[&made]).await;
        both.push((made, faulty, store));
    }
    both
}

#[tokio::test]
async fn what_was_fetched_survives_a_new_reader() {
    for (made, faulty, store) in both().await {
        let folder = TempDir::new().unwrap();
        let expected = rows(&reader_at(folder.path(), &store, &made).await, &made, &all()).await;
        let calls = faulty.calls(Operation::Get);
        let reader = reader_at(folder.path(), &store, &made).await;
        assert_eq!(reader.usage().disk_bytes, bytes_in(folder.path()));
        assert_eq!(rows(&reader, &made, &all()).await, expected);
        assert_eq!((faulty.calls(Operation::Get), reader.usage().fetches), (calls, 0));
        assert!(reader.usage().disk_hits > 0);
    }
}

#[tokio::test]
async fn what_was_fetched_is_not_fetched_again_for_another_question() {
    for (made, faulty, store) in both().await {
        let folder = TempDir::new().unwrap();
        let reader = reader_at(folder.path(), &store, &made).await;
        rows(&reader, &made, &all()).await;
        let calls = faulty.calls(Operation::Get);
        for want in [of_site("site1.com"), Want { dimensions: Vec::new(), with_urls: false, ..all() }] {
            assert!(rows(&reader, &made, &want).await > 0);
        }
        assert_eq!(faulty.calls(Operation::Get), calls);
    }
}

#[tokio::test]
async fn a_damaged_file_is_deleted_and_fetched_again() {
    for (made, faulty, store) in both().await {
        let folder = TempDir::new().unwrap();
        let expected = rows(&reader_at(folder.path(), &store, &made).await, &made, &all()).await;
        for damage in [0, 9, 40] {
            for file in pieces(folder.path()) {
                let mut bytes = fs::read(file.path()).unwrap();
                bytes[damage] ^= 1;
                fs::write(file.path(), bytes).unwrap();
            }
            let calls = faulty.calls(Operation::Get);
            let reader = reader_at(folder.path(), &store, &made).await;
            assert_eq!(rows(&reader, &made, &all()).await, expected);
            assert!(faulty.calls(Operation::Get) > calls);
            // And is whole again.
            let calls = faulty.calls(Operation::Get);
            assert_eq!(rows(&reader_at(folder.path(), &store, &made).await, &made, &all()).await, expected);
            assert_eq!(faulty.calls(Operation::Get), calls);
        }
    }
}

#[tokio::test]
async fn a_file_of_another_piece_or_another_length_is_deleted() {
    let (one, two) = (small(&path(1)), large(&path(2), 90));
    let (_, store) = store_of(&[&one, &two]).await;
    let folder = TempDir::new().unwrap();
    rows(&reader_at(folder.path(), &store, &one).await, &one, &all()).await;
    let first = pieces(folder.path()).remove(0).path();
    rows(&reader_at(folder.path(), &store, &two).await, &two, &all()).await;
    let second =
        pieces(folder.path()).into_iter().map(|file| file.path()).find(|file| *file != first).unwrap();
    let strange = first.with_file_name(format!("{:032x}-0-5.piece", 7));
    fs::write(&strange, "not so long").unwrap();
    fs::copy(&second, &first).unwrap();
    let reader = reader_at(folder.path(), &store, &one).await;
    assert!(!strange.exists() && !first.exists() && second.exists());
    assert_eq!(rows(&reader, &one, &all()).await, 100);
}

#[tokio::test]
async fn files_of_others_are_left_alone_and_half_written_ones_are_not() {
    let (made, _, store) = both().await.remove(0);
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("letter.txt"), "dear reader").unwrap();
    fs::write(folder.path().join("writing.tmp"), "half").unwrap();
    let reader = reader_at(folder.path(), &store, &made).await;
    assert_eq!(rows(&reader, &made, &all()).await, 100);
    assert!(folder.path().join("letter.txt").exists() && !folder.path().join("writing.tmp").exists());
}

#[tokio::test]
async fn the_disk_holds_no_more_than_it_may_and_what_was_used_last() {
    let segments: Vec<Made> = (0..20).map(|n| small(&path(n))).collect();
    let (faulty, store) = store_of(&segments.iter().collect::<Vec<_>>()).await;
    let limit = segments[0].segment.size_bytes * 6;
    let folder = TempDir::new().unwrap();
    let reader = Reader::open(store.clone(), cached(folder.path(), limit, &segments[0])).await;
    for made in &segments {
        rows(&reader, made, &all()).await;
        // So that the first one stays.
        rows(&reader, &segments[0], &of_site(&format!("nobody{}.com", made.segment.path.len()))).await;
        rows(
            &reader,
            &segments[0],
            &Want { site: None, url_prefix: Some(made.segment.path.clone()), ..all() },
        )
        .await;
        assert!(bytes_in(folder.path()) <= limit);
        assert_eq!(bytes_in(folder.path()), reader.usage().disk_bytes);
    }
    assert_eq!(pieces(folder.path()).len(), 5);
    assert_eq!(faulty.calls(Operation::Get), 20);

    // A smaller limit holds from the start.
    let reader = Reader::open(store, cached(folder.path(), limit * 5 / 6, &segments[0])).await;
    assert!(bytes_in(folder.path()) <= limit * 5 / 6 && reader.usage().disk_bytes > 0);
}

#[tokio::test]
async fn a_store_that_was_made_anew_does_not_get_old_bytes() {
    let folder = TempDir::new().unwrap();
    for rows_of_it in [100, 150, 12_000, 13_000] {
        let made = large(&path(1), rows_of_it);
        let (_, store) = store_of(&[&made]).await;
        let reader = reader_at(folder.path(), &store, &made).await;
        assert_eq!(rows(&reader, &made, &all()).await, rows_of_it as usize);
    }
}

#[tokio::test]
async fn a_disk_that_fails_costs_nothing_but_its_use() {
    let (made, _, store) = both().await.remove(0);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let reader = reader_at(&file.join("below"), &store, &made).await;
    assert_eq!(rows(&reader, &made, &all()).await, 100);

    let lost = folder.path().join("lost");
    let reader = reader_at(&lost, &store, &made).await;
    fs::remove_dir(&lost).unwrap();
    assert_eq!(rows(&reader, &made, &all()).await, 100);
    assert!(rows(&reader, &made, &of_site("site1.com")).await > 0);
    assert_eq!((reader.usage().disk_bytes, reader.usage().fetches), (0, 2));

    let emptied = folder.path().join("emptied");
    let reader = reader_at(&emptied, &store, &made).await;
    rows(&reader, &made, &all()).await;
    fs::remove_dir_all(&emptied).unwrap();
    assert!(rows(&reader, &made, &of_site("site1.com")).await > 0);
}

#[tokio::test]
async fn what_the_store_had_damaged_is_right_again_once_the_store_is() {
    for (made, faulty, store) in both().await {
        let mut damaged = 0;
        for at in (0..8).map(|part| made.bytes.len() / 8 * part + 50) {
            let folder = TempDir::new().unwrap();
            let mut bytes = made.bytes.to_vec();
            bytes[at] ^= 1;
            store.put(&made.segment.path, bytes.into()).await.unwrap();
            let reader = reader_at(folder.path(), &store, &made).await;
            // Columns that nobody reads are fetched with others and may be damaged.
            damaged +=
                usize::from(reader.rollups(&made.segment, &all(), &keep_all(made.shards)).await.is_err());
            reader.settled().await;
            store.put(&made.segment.path, made.bytes.clone()).await.unwrap();
            assert_eq!(rows(&reader, &made, &all()).await as u64, made.segment.rows);
            faulty.set_hook(|_, _| Action::Fail);
            let reader = reader_at(folder.path(), &store, &made).await;
            assert_eq!(rows(&reader, &made, &all()).await as u64, made.segment.rows);
            faulty.set_hook(|_, _| Action::Pass);
        }
        assert!(damaged > 2);
    }
}
