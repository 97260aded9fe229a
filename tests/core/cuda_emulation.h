// CUDA on the CPU, for tests: enough of it to compile the kernels' own sources with g++ or clang++ and run them.
//
// A block's threads are fibers on one system thread; blocks run one after another. A fiber runs until it meets a
// barrier (__syncthreads, or a shuffle, which is one for its warp), then the next runs, in an order that the caller
// chooses: a missing barrier shows as a result that depends on the order. Shared memory is NaN at first, and what lies
// behind it is guarded. A thread that has returned while others wait is an error.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};

enum class State { ready, block_barrier, warp_barrier, done };

struct Fiber {
    ucontext_t context;
    Dim index;
    State state;
    unsigned operations;  // shuffles so far: says which half of the warp's slots is in use
    std::unique_ptr<char[]> stack;
};

constexpr size_t STACK = 64 * 1024, WARP = 32, SHARED = 1 << 18, GUARD = 1024;
constexpr unsigned NOISE = 0x7fc0dead;  // a NaN

Dim threadIdx, blockIdx, blockDim, gridDim;
alignas(16) float shared[(SHARED + GUARD) / sizeof(float)];

static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static Fiber* current;
static std::vector<uint32_t> slots;  // (2, threads)
static void (*body)(void*);
static void* body_arguments;

static void wait(State state) {
    current->state = state;
    swapcontext(&current->context, &scheduler);
}

static void enter() {
    body(body_arguments);
    wait(State::done);
}

inline void __syncthreads() { wait(State::block_barrier); }

template <typename T>
inline T __shfl_xor_sync(unsigned, T value, int lanes) {
    static_assert(sizeof(T) == 4);
    const size_t me = current - fibers.data(), half = (current->operations++ & 1) * fibers.size();
    std::memcpy(&slots[half + me], &value, 4);
    wait(State::warp_barrier);
    std::memcpy(&value, &slots[half + (me ^ (size_t)lanes)], 4);
    return value;
}

inline float __uint_as_float(unsigned u) {
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}
inline float __int_as_float(unsigned u) { return __uint_as_float(u); }
inline unsigned __float_as_uint(float x) {
    unsigned u;
    std::memcpy(&u, &x, 4);
    return u;
}
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }

#define __global__ static
#define __device__
#define __shared__
#define __restrict__ __restrict
#define __align__(n)
#define __launch_bounds__(...)

// 0, or what went wrong.
enum Failure { fine = 0, left_before_barrier = 1, wrote_past_shared = 2, too_much_shared = 3, mixed_barriers = 4 };

static Failure run_block(unsigned count, int order, size_t bytes) {
    if (bytes > SHARED) return too_much_shared;
    for (auto& word : shared) std::memcpy(&word, &NOISE, 4);
    for (unsigned i = 0; i < count; ++i) {
        Fiber& f = fibers[i];
        f.index = {i, 0, 0};
        f.state = State::ready;
        f.operations = 0;
        getcontext(&f.context);
        f.context.uc_stack = {};
        f.context.uc_stack.ss_sp = f.stack.get();
        f.context.uc_stack.ss_size = STACK;
        f.context.uc_link = nullptr;
        makecontext(&f.context, enter, 0);
    }
    for (unsigned sweep = 0;; ++sweep) {
        // order 0: ascending; 1: descending; 2: each sweep the other way, from another thread on
        const bool down = order == 1 || (order == 2 && sweep % 2);
        bool ran = false;
        for (unsigned j = 0; j < count; ++j) {
            unsigned i = down ? count - 1 - j : j;
            if (order == 2) i = (i + 37 * sweep) % count;
            Fiber& f = fibers[i];
            if (f.state != State::ready) continue;
            ran = true;
            current = &f;
            threadIdx = f.index;
            swapcontext(&scheduler, &f.context);
        }
        size_t at_block = 0, gone = 0;
        for (auto& f : fibers) at_block += f.state == State::block_barrier, gone += f.state == State::done;
        if (gone == count) break;
        if (at_block == count) {
            for (auto& f : fibers) f.state = State::ready;
            continue;
        }
        bool released = false;
        for (size_t warp = 0; warp < count; warp += WARP) {
            bool all = true;
            for (size_t i = warp; i < warp + WARP; ++i) all = all && fibers[i].state == State::warp_barrier;
            for (size_t i = warp; all && i < warp + WARP; ++i) fibers[i].state = State::ready;
            released = released || all;
        }
        if (!released && !ran) return gone ? left_before_barrier : mixed_barriers;
    }
    for (size_t i = (bytes + 3) / 4; i < (bytes + GUARD) / 4; ++i) {
        if (__float_as_uint(shared[i]) != NOISE) return wrote_past_shared;
    }
    return fine;
}

// Unpacks the addresses of a launch's arguments and runs the grid.
template <typename... Args>
int launch(void (*kernel)(Args...), void** args, const unsigned* grid, unsigned threads, size_t bytes, int order) {
    auto values = [&]<size_t... I>(std::index_sequence<I...>) {
        return std::make_tuple(*static_cast<Args*>(args[I])...);
    }(std::index_sequence_for<Args...>{});
    auto call = [&] { std::apply(kernel, values); };
    body = [](void* f) { (*static_cast<decltype(call)*>(f))(); };
    body_arguments = &call;
    while (fibers.size() > threads) fibers.pop_back();
    while (fibers.size() < threads) fibers.push_back({{}, {}, State::done, 0, std::make_unique<char[]>(STACK)});
    slots.assign(2 * threads, NOISE);
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    for (unsigned y = 0; y < grid[1]; ++y) {
        for (unsigned x = 0; x < grid[0]; ++x) {
            blockIdx = {x, y, 0};
            if (const Failure failure = run_block(threads, order, bytes)) return failure;
        }
    }
    return fine;
}
