// 3 x 3 convolutions of channels_last maps by Winograd's minimal filtering F(2 x 2, 3 x 3), on a CPU.
//
// Lavin and Gray (2016, arXiv:1509.09308), equations 7 to 12: for each tile of 2 x 2 outputs
//     y = A' [sum over channels of (G g G') * (B' d B)] A
// with 16 multiplications for 36. Tiles are taken in blocks, so that what is transformed stays in a second-level
// cache: 16 matrices (tiles, channels), each times one of weights, then back to pixels with the bias. In bf16
// the transforms and sums are fp32; transformed maps and weights are rounded once, to nearest.
//
// Of a map that nearest neighbour doubles first (UP), the middle rows and columns of each 4 x 4 patch are equal: 7
// of the 16 products are zero, and 9 remain for 36.
//
// Every output is a sum over channels in their order, of its own tile: the same bits for any number of threads,
// any block, and any other samples in the batch.

#include "cpu.h"

#include <cstdlib>
#include <new>

namespace {

#if defined(__AVX512F__)
constexpr int MOST_ROWS = 14;  // of tiles by 2 vectors of output channels: 28 of 32 registers
#else
constexpr int MOST_ROWS = 6;  // 12 of 16
#endif
constexpr int VECTORS = 2, WIDTH = VECTORS * L;  // output channels to a panel
constexpr int64_t BLOCK = 56;                    // tiles

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
constexpr bool FP32 = true;
#else
constexpr bool FP32 = false;
#endif
#if defined(__AVX512BF16__)
constexpr bool BF16 = true;
#else
constexpr bool BF16 = false;
#endif

struct Shape {
    int64_t b, h, w, c, k;       // input map, output channels
    int64_t height, width;       // of the output
    int64_t down, across, panels;  // tiles; panels of output channels
    Shape(const int64_t *given, bool up)
        : b(given[0]), h(given[1]), w(given[2]), c(given[3]), k(given[4]), height(up ? 2 * h : h),
          width(up ? 2 * w : w), down((height + 1) / 2), across((width + 1) / 2), panels((k + WIDTH - 1) / WIDTH) {}
    int64_t tiles() const { return b * down * across; }
};

struct Tile {
    const Shape &s;
    int64_t b, y, x;
    Tile(const Shape &s, int64_t i) : s(s), b(i / (s.down * s.across)), y(i / s.across % s.down), x(i % s.across) {}
    void next() {
        if (++x < s.across) return;
        x = 0;
        if (++y < s.down) return;
        y = 0, b++;
    }
};

typedef double Wide __attribute__((vector_size(8 * L)));

// ---- channels ----

// A line: L lanes of one channel in fp32, of two in bf16. A product takes a lane of a line at a time.
template <class T> struct Line;

template <> struct Line<float> {
    typedef float Lane;
    static constexpr int channels = L;
    static int order(int i) { return i; }
    V v;
    static Line load(const float *p) { return {widen(p)}; }
    void store(float *p) const { narrow(p, v); }
    friend Line operator+(Line a, Line b) { return {a.v + b.v}; }
    friend Line operator-(Line a, Line b) { return {a.v - b.v}; }
    static V multiply(V sum, const Lane *a, V b) { return sum + *a * b; }
};

#if defined(__AVX512BF16__)
struct Pair {
    uint32_t bits;
} __attribute__((may_alias));

template <> struct Line<bf16> {
    typedef Pair Lane;
    static constexpr int channels = 2 * L;
    // even channels first: so are they unpacked and packed without shuffling, and weights are laid out alike
    static int order(int i) { return i < L ? 2 * i : 2 * (i - L) + 1; }
    V even, odd;
    static Line load(const bf16 *p) {
        U u = (U)_mm512_loadu_si512(p);
        return {(V)(u << 16), (V)(u & 0xffff0000u)};
    }
    void store(bf16 *p) const { _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even)); }
    friend Line operator+(Line a, Line b) { return {a.even + b.even, a.odd + b.odd}; }
    friend Line operator-(Line a, Line b) { return {a.even - b.even, a.odd - b.odd}; }
    static V multiply(V sum, const Lane *a, V b) {
        return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(int(a->bits)), (__m512bh)b);
    }
};
#endif

// ---- products ----

// m[r] = sum over lines and lanes of a[line][r][lane] b[line][lane], r < R, both b and m WIDTH wide.
template <class T, int R> void product(const typename Line<T>::Lane *a, const float *b, float *m, int64_t lines) {
    V sum[R][VECTORS];
#pragma GCC unroll 14
    for (int r = 0; r < R; r++)
        for (int j = 0; j < VECTORS; j++) sum[r][j] = V{};
    for (int64_t l = 0; l < lines; l++, a += R * L)
        for (int k = 0; k < L; k++, b += WIDTH) {
            V of[VECTORS];
            for (int j = 0; j < VECTORS; j++) of[j] = widen(b + j * L);
#pragma GCC unroll 14
            for (int r = 0; r < R; r++)
                for (int j = 0; j < VECTORS; j++) sum[r][j] = Line<T>::multiply(sum[r][j], a + r * L + k, of[j]);
        }
#pragma GCC unroll 14
    for (int r = 0; r < R; r++)
        for (int j = 0; j < VECTORS; j++) narrow(m + r * WIDTH + j * L, sum[r][j]);
}

template <class T, int R = MOST_ROWS>
void products(int64_t rows, const typename Line<T>::Lane *a, const float *b, float *m, int64_t lines) {
    if (rows == R)
        product<T, R>(a, b, m, lines);
    else if constexpr (R > 1)
        products<T, R - 1>(rows, a, b, m, lines);
}

// ---- transforms ----

template <class T, bool UP> struct Winograd {
    static constexpr int SIDE = UP ? 3 : 4;  // of the patch that a tile sees, and of its products
    static constexpr int PRODUCTS = SIDE * SIDE;
    typedef Line<T> Channels;

    // B' of one row or column.
    template <class X> static void forward(const X *d, int stride, X *v) {
        if constexpr (UP) {
            v[0] = d[0] - d[stride];
            v[1] = d[stride];
            v[2] = d[stride] - d[2 * stride];
        } else {
            v[0] = d[0] - d[2 * stride];
            v[1] = d[stride] + d[2 * stride];
            v[2] = d[2 * stride] - d[stride];
            v[3] = d[stride] - d[3 * stride];
        }
    }

    // A' of one row or column.
    static void back(const V *m, int stride, V *y) {
        if constexpr (UP) {
            y[0] = m[0] + m[stride];
            y[1] = m[stride] - m[2 * stride];
        } else {
            y[0] = m[0] + m[stride] + m[2 * stride];
            y[1] = m[stride] - m[2 * stride] - m[3 * stride];
        }
    }

    // G of one row or column; UP: the middle row is that of the sum of two equal ones.
    template <class X> static void weights(const X *g, int stride, X *u) {
        const X sum = g[0] + g[2 * stride];
        u[0] = g[0];
        if constexpr (UP) {
            u[1] = sum + g[stride];
        } else {
            u[1] = (sum + g[stride]) * 0.5;
            u[2] = (sum - g[stride]) * 0.5;
        }
        u[SIDE - 1] = g[2 * stride];
    }

    // A patch to v[product][line], `plane` between products, `line` between lines.
    static void patch_in(const T *x, int64_t row, int64_t c, T *v, int64_t line, int64_t plane) {
        for (int64_t k = 0; k < c; k += Channels::channels, v += line) {
            Channels d[PRODUCTS], columns[SIDE][SIDE];
#pragma GCC unroll 4
            for (int i = 0; i < SIDE; i++)
#pragma GCC unroll 4
                for (int j = 0; j < SIDE; j++) d[i * SIDE + j] = Channels::load(x + i * row + j * c + k);
#pragma GCC unroll 4
            for (int j = 0; j < SIDE; j++) forward(d + j, SIDE, columns[j]);
#pragma GCC unroll 4
            for (int i = 0; i < SIDE; i++) {
                Channels o[SIDE];
                forward(&columns[0][i], SIDE, o);
#pragma GCC unroll 4
                for (int j = 0; j < SIDE; j++) o[j].store(v + (i * SIDE + j) * plane);
            }
        }
    }

    // Where a tile's patch begins, and elements between its rows; at the border a copy with zeros around.
    static const T *patch(const Tile &tile, const T *x, T *copy, int64_t &row) {
        const Shape &s = tile.s;
        const int64_t y = (UP ? tile.y : 2 * tile.y) - 1, first = (UP ? tile.x : 2 * tile.x) - 1;
        const bool inside = y >= 0 && first >= 0 && y + SIDE <= s.h && first + SIDE <= s.w;
        row = (inside ? s.w : SIDE) * s.c;
        if (inside) return x + ((tile.b * s.h + y) * s.w + first) * s.c;
        for (int i = 0; i < SIDE; i++)
            for (int j = 0; j < SIDE; j++) {
                T *to = copy + (i * SIDE + j) * s.c;
                if (y + i >= 0 && y + i < s.h && first + j >= 0 && first + j < s.w)
                    std::memcpy(to, x + ((tile.b * s.h + y + i) * s.w + first + j) * s.c, s.c * sizeof(T));
                else
                    std::memset(to, 0, s.c * sizeof(T));
            }
        return copy;
    }

    // The products of a tile and a panel to its pixels.
    static void patch_out(const Tile &tile, int64_t panel, const float *m, int64_t plane, const float *bias, T *out) {
        const Shape &s = tile.s;
        const bool right = 2 * tile.x + 1 < s.width, below = 2 * tile.y + 1 < s.height;
        T *to = out + ((tile.b * s.height + 2 * tile.y) * s.width + 2 * tile.x) * s.k;
        for (int64_t j = 0, k = panel * WIDTH; j < VECTORS && k < s.k; j++, k += L) {
            V of[PRODUCTS], columns[SIDE][2], y[2], base = bias ? widen(bias + k) : V{};
#pragma GCC unroll 16
            for (int t = 0; t < PRODUCTS; t++) of[t] = widen(m + t * plane + j * L);
#pragma GCC unroll 4
            for (int q = 0; q < SIDE; q++) back(of + q, SIDE, columns[q]);
            back(&columns[0][0], 2, y);
            narrow(to + k, y[0] + base);
            if (right) narrow(to + s.k + k, y[1] + base);
            if (!below) continue;
            back(&columns[0][1], 2, y);
            narrow(to + s.width * s.k + k, y[0] + base);
            if (right) narrow(to + (s.width + 1) * s.k + k, y[1] + base);
        }
    }

    // ---- the convolution ----

    // Memory of one thread, kept for the next convolution.
    struct Scratch {
        float *data = nullptr;
        int64_t size = 0;
        ~Scratch() { std::free(data); }
        float *get(int64_t wanted) {
            if (wanted > size) {
                std::free(data);
                const int64_t bytes = (4 * wanted + 4095) / 4096 * 4096;
                data = static_cast<float *>(std::aligned_alloc(4096, bytes));
                size = data ? bytes / 4 : 0;
            }
            return data;
        }
    };

    // False where memory ran out.
    static bool convolve(void *parallel, int64_t threads, const Shape &s, const T *x, const float *u,
                         const float *bias, T *out) {
        const int64_t tiles = s.tiles(), blocks = (tiles + BLOCK - 1) / BLOCK, lines = s.c / Channels::channels;
        if (!tiles) return true;
        // few blocks for many threads: several to a block, each with some of the panels
        int64_t shares = threads > 1 ? (4 * threads + blocks - 1) / blocks : 1;
        if (shares > (s.panels + 1) / 2) shares = (s.panels + 1) / 2;
        // a little more than the contents: planes that start at equal addresses modulo 4096 compete for cache lines
        const int64_t block = tiles < BLOCK ? tiles : BLOCK;
        const int64_t plane = block * s.c + 2 * Channels::channels, sums = block * WIDTH + L;
        std::atomic<bool> failed{false};
        for_each(parallel, threads, blocks * shares, [&](int64_t item) {
            static thread_local Scratch scratch;
            const int64_t transformed = (PRODUCTS * plane * int64_t(sizeof(T)) + 3) / 4;
            float *data = scratch.get(transformed + PRODUCTS * sums + PRODUCTS * s.c);
            if (!data) {
                failed = true;
                return;
            }
            T *v = reinterpret_cast<T *>(data);
            float *m = data + transformed;
            T *copy = reinterpret_cast<T *>(m + PRODUCTS * sums);
            const int64_t share = item % shares, first = item / shares * BLOCK;
            const int64_t n = tiles - first < BLOCK ? tiles - first : BLOCK, parts = (n + MOST_ROWS - 1) / MOST_ROWS;
            auto start = [&](int64_t part) { return n * part / parts; };
            Tile tile(s, first);
            for (int64_t part = 0; part < parts; part++) {
                const int64_t r0 = start(part), rows = start(part + 1) - r0;
                for (int64_t r = 0; r < rows; r++, tile.next()) {
                    int64_t row;
                    const T *from = patch(tile, x, copy, row);
                    T *to = v + r0 * s.c + r * Channels::channels;
                    patch_in(from, row, s.c, to, rows * Channels::channels, plane);
                }
            }
            const int64_t end = s.panels * (share + 1) / shares;
            for (int64_t panel = s.panels * share / shares; panel < end; panel++) {
                for (int64_t t = 0; t < PRODUCTS; t++)
                    for (int64_t part = 0; part < parts; part++) {
                        const int64_t r0 = start(part);
                        const auto *a = reinterpret_cast<const typename Channels::Lane *>(v + t * plane + r0 * s.c);
                        const float *b = u + (panel * PRODUCTS + t) * lines * L * WIDTH;
                        products<T>(start(part + 1) - r0, a, b, m + t * sums + r0 * WIDTH, lines);
                    }
                Tile to(s, first);
                for (int64_t r = 0; r < n; r++, to.next()) patch_out(to, panel, m + r * WIDTH, sums, bias, out);
            }
        });
        return !failed;
    }

    // ---- weights ----

    // L output channels of the channels of one lane.
    static void put(float *to, const Wide *v) { narrow(to, __builtin_convertvector(v[0], V)); }
    static void put(bf16 *to, const Wide *v) {
        bf16 all[2][L];
        for (int i = 0; i < 2; i++) narrow(all[i], __builtin_convertvector(v[i], V));
        for (int o = 0; o < L; o++)
            for (int i = 0; i < 2; i++) to[2 * o + i] = all[i][o];
    }

    // g: (k, 3, 3, c) fp32 -> u[panel][product][channel, in lines' order][WIDTH], zero beyond k; in bf16 the two
    // channels of a lane lie side by side. Computed in fp64.
    static void transform(void *parallel, int64_t threads, const Shape &s, const float *g, T *u) {
        constexpr int PER = Channels::channels / L;
        const int64_t lines = s.c / Channels::channels;
        for_each(parallel, threads, s.panels * lines, [&](int64_t item) {
            const int64_t panel = item / lines, line = item % lines * Channels::channels;
            for (int lane = 0; lane < L; lane++)
                for (int j = 0; j < VECTORS; j++) {
                    Wide d[9], columns[3][SIDE], all[PRODUCTS][PER];
                    const int64_t k = panel * WIDTH + j * L;
                    for (int i = 0; i < PER; i++) {
                        const float *from = g + k * 9 * s.c + line + Channels::order(lane * PER + i);
                        for (int t = 0; t < 9; t++)
                            for (int o = 0; o < L; o++) d[t][o] = k < s.k ? from[(o * 9 + t) * s.c] : 0;
                        for (int q = 0; q < 3; q++) weights(d + q, 3, columns[q]);
                        for (int p = 0; p < SIDE; p++) {
                            Wide row[SIDE];
                            weights(&columns[0][p], SIDE, row);
                            for (int q = 0; q < SIDE; q++) all[p * SIDE + q][i] = row[q];
                        }
                    }
                    for (int t = 0; t < PRODUCTS; t++)
                        put(u + ((panel * PRODUCTS + t) * s.c + line + lane * PER) * WIDTH + j * L * PER, all[t]);
                }
        });
    }
};

// f(T, UP) for the types that this processor computes; false for others.
template <class F> bool dispatch(bool half, bool up, const F &f) {
#if defined(__AVX512BF16__)
    if (half) return up ? f(bf16(), Winograd<bf16, true>()) : f(bf16(), Winograd<bf16, false>());
#endif
    if (half || !FP32) return false;
    return up ? f(float(), Winograd<float, true>()) : f(float(), Winograd<float, false>());
}

}  // namespace

// Input channels come in multiples of `of_input`, output channels of `of_output`; 0 where this processor has no
// instructions for the type.
extern "C" void msdm_winograd_multiples(int64_t half, int64_t *of_input, int64_t *of_output) {
    const bool has = half ? BF16 : FP32;
    *of_input = has ? (half ? 2 * L : L) : 0;
    *of_output = has ? L : 0;
}

// Bytes of transformed weights.
extern "C" int64_t msdm_winograd_bytes(int64_t half, int64_t up, int64_t c, int64_t k) {
    return (up ? 9 : 16) * c * ((k + WIDTH - 1) / WIDTH * WIDTH) * (half ? 2 : 4);
}

// 0, or 1 where the type is none of this processor's. shape: as below; g: (k, 3, 3, c) fp32.
extern "C" int msdm_winograd_weights(void *parallel, int64_t threads, int64_t half, int64_t up, const int64_t *shape,
                                     const float *g, void *u) {
    const Shape s(shape, up != 0);
    return !dispatch(half, up, [&](auto type, auto algorithm) {
        algorithm.transform(parallel, threads, s, g, static_cast<decltype(type) *>(u));
        return true;
    });
}

// 0, or 1 where memory ran out or the type is none of this processor's. shape: b, h, w, c, k; x: (b, h, w, c), out:
// (b, h, w, k), twice as high and wide where `up`; bias: (k) fp32 or null.
extern "C" int msdm_winograd(void *parallel, int64_t threads, int64_t half, int64_t up, const int64_t *shape,
                             const void *x, const void *u, const float *bias, void *out) {
    const Shape s(shape, up != 0);
    return !dispatch(half, up, [&](auto type, auto algorithm) {
        typedef decltype(type) T;
        return algorithm.convolve(parallel, threads, s, static_cast<const T *>(x), static_cast<const float *>(u), bias,
                                  static_cast<T *>(out));
    });
}
