//! What the C library does with memory that is freed.

use std::hint::black_box;

/// More than all that is freed at once of what was fetched.
const LARGE: usize = 4 << 20;

/// Keeps glibc from giving the memory of each fetch back to the kernel, only to have it back page by page with the next
/// one.
///
/// Memory at the end of a heap goes back once there is twice as much of it as the largest piece that had a mapping of its
/// own and was freed (see `M_MMAP_THRESHOLD` in `mallopt(3)`). So one such piece is freed, of which nothing was ever
/// resident: 8 MiB of each heap stay from then on, and pieces of up to 4 MiB come from heaps. That holds for the whole process, as it does after any such piece, and
/// not where whoever runs it sets these limits. Other allocators do as they do.
pub(crate) fn keep_what_is_freed() {
    drop(black_box(Vec::<u8>::with_capacity(LARGE)));
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod tests {
    use std::fs;

    use super::*;

    /// The pages that this thread had to ask the kernel for.
    fn faults() -> u64 {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        // What comes before may hold spaces.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(7).unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_freed_is_there_again() {
        const PIECE: usize = 1 << 20;
        keep_what_is_freed();
        let use_and_free = || drop(black_box([(); 4].map(|()| vec![1_u8; PIECE])));
        use_and_free();
        let before = faults();
        (0..100).for_each(|_| use_and_free());
        let (pages, faults) = (100 * 4 * PIECE / 4096, faults() - before);
        assert!(faults < pages as u64 / 10, "{faults} of {pages} pages");
    }
}
