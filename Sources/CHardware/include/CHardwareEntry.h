/// The crossing from the file layer into a driver on the data path: one table of plain functions, filled when a card is
/// started. A plain function pointer is the only dynamic call that costs no reference counting.
#pragma once

/// `request` and `stream` are addresses of fixed records of DriverCore; `context` is the driver's own state.
typedef struct chw_entry_points {
    void *_Nonnull context;
    /// Takes ownership of a request; it is completed now or later, on any thread, exactly once.
    void (*_Nonnull submit)(void *_Nonnull context, void *_Nonnull request);
    /// A request the driver holds was claimed for cancellation, and says in `status` and `cause` why: it is taken out of the
    /// queue and completed, with the bytes it has got so far, or with the failure if it has none. Never waits.
    void (*_Nonnull withdraw)(void *_Nonnull context, void *_Nonnull request);
    /// The poll(2) events that hold now for a direction (0 to the card, 1 from the card).
    uint32_t (*_Nonnull readiness)(void *_Nonnull context, uint32_t direction);
} chw_entry_points;

CHW_INLINE void chw_entry_submit(const chw_entry_points *_Nonnull table, void *_Nonnull request) {
    table->submit(table->context, request);
}
CHW_INLINE void chw_entry_withdraw(const chw_entry_points *_Nonnull table, void *_Nonnull request) {
    table->withdraw(table->context, request);
}
CHW_INLINE uint32_t chw_entry_readiness(const chw_entry_points *_Nonnull table, uint32_t direction) {
    return table->readiness(table->context, direction);
}

/// Called once for each request when it is completed, by the driver's thread, with no lock held.
typedef void (*chw_completion)(void *_Nonnull context, void *_Nonnull request);
CHW_INLINE void chw_complete(chw_completion _Nonnull function, void *_Nonnull context, void *_Nonnull request) {
    function(context, request);
}

/// A function with one context argument, called through a stored pointer.
typedef void (*chw_routine)(void *_Nonnull context);
CHW_INLINE void chw_call(chw_routine _Nonnull function, void *_Nonnull context) { function(context); }

/// An interrupt service routine: `vector` says which one fired; true if this card raised it.
typedef bool (*chw_service_routine)(void *_Nonnull context, uint32_t vector);
CHW_INLINE bool chw_serve(chw_service_routine _Nonnull function, void *_Nonnull context, uint32_t vector) {
    return function(context, vector);
}

/// Carries out a store to a register that a driver wants to know of: `width` bytes of `value` at `offset`.
typedef void (*chw_store_routine)(void *_Nonnull context, uint64_t offset, uint32_t width, uint64_t value);
CHW_INLINE void chw_store(chw_store_routine _Nonnull function, void *_Nonnull context, uint64_t offset, uint32_t width,
                          uint64_t value) {
    function(context, offset, width, value);
}

/// Loads a channel of a slave DMA controller and lets it serve; masks it for 0 bytes.
typedef void (*chw_dma_order)(void *_Nonnull context, uint64_t address, uint32_t byte_count, uint32_t mode);

/// A question asked off the usual path; the answer is a number.
typedef uint32_t (*chw_question)(void *_Nonnull context);
CHW_INLINE uint32_t chw_ask(chw_question _Nonnull function, void *_Nonnull context) { return function(context); }

/// As chw_question, about a subject.
typedef uint32_t (*chw_question_about)(void *_Nonnull context, uint32_t subject);
CHW_INLINE uint32_t chw_ask_about(chw_question_about _Nonnull function, void *_Nonnull context, uint32_t subject) {
    return function(context, subject);
}
