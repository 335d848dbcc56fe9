//! Reading and writing one field of a context or a socket by one instruction.

/// Reads the `$index`th 32-bit word of a field of a context or a socket.
macro_rules! load {
    ($pointer:expr, $type:ident.$field:ident) => {
        load!($pointer, $type.$field, 0)
    };
    ($pointer:expr, $type:ident.$field:ident, $index:literal) => {{
        let value: u64;
        // SAFETY: the kernel passed the pointer, and the verifier proves that programs of
        // this kind may read this field. Nothing but the output is changed.
        unsafe {
            asm!(
                "{value} = *(u32 *)({pointer} + {offset})",
                value = out(reg) value,
                pointer = in(reg) $pointer,
                offset = const offset_of!($type, $field) + 4 * $index,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value as u32
    }};
}

/// Reads a field that holds a pointer.
macro_rules! load_pointer {
    ($pointer:expr, $type:ident.$($field:ident).+) => {{
        let value: *mut c_void;
        // SAFETY: as for `load`.
        unsafe {
            asm!(
                "{value} = *(u64 *)({pointer} + {offset})",
                value = out(reg) value,
                pointer = in(reg) $pointer,
                offset = const offset_of!($type, $($field).+),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value.cast()
    }};
}

/// Writes the `$index`th 32-bit word of a field of a context.
macro_rules! store {
    ($value:expr => $pointer:expr, $type:ident.$field:ident) => {
        store!($value => $pointer, $type.$field, 0)
    };
    ($value:expr => $pointer:expr, $type:ident.$field:ident, $index:literal) => {{
        let value: u64 = u64::from($value);
        // SAFETY: as for `load`, for writing.
        unsafe {
            asm!(
                "*(u32 *)({pointer} + {offset}) = {value}",
                value = in(reg) value,
                pointer = in(reg) $pointer,
                offset = const offset_of!($type, $field) + 4 * $index,
                options(nostack, preserves_flags),
            );
        }
    }};
}

/// Reads an address from a pair of fields: the IPv4 word and the IPv6 words.
macro_rules! load_address {
    ($is_v4:expr, $pointer:expr, $type:ident.{$v4:ident, $v6:ident}) => {
        if $is_v4 {
            Address::from_v4_word(load!($pointer, $type.$v4))
        } else {
            Address::from_words([
                load!($pointer, $type.$v6, 0),
                load!($pointer, $type.$v6, 1),
                load!($pointer, $type.$v6, 2),
                load!($pointer, $type.$v6, 3),
            ])
        }
    };
}

pub(super) use {load, load_address, load_pointer, store};
