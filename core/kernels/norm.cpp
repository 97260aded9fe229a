// Group normalisation, modulation, scale-shift and SiLU of channels_last maps, forward and backward, on a CPU.
//
// Plain C functions, called through ctypes: no header of torch, so that compiling takes seconds. The formulae
// are those of norm_twin.py. Work is cut into chunks of pixels whose size depends on the shape only, every sum
// is taken within a chunk in fp32 and over the chunks in fp64 in their order: the result does not depend on
// the number of threads, bit for bit.

#include "cpu.h"

#include <vector>

namespace {

// ---- shapes ----

struct Shape {
    int64_t b, c, h, w, groups, patch_h, patch_w;
    int64_t map_stride;  // elements between samples of gamma_beta; 0: one row for all
    int64_t pixels() const { return h * w; }
    int64_t wide() const { return (c + L - 1) / L * L; }  // channels of a row of coefficients
    int64_t chunk() const {  // pixels: fits a second-level cache, and is short enough for sums in fp32
        int64_t n = 32768 / c;
        return n < 32 ? 32 : n > 512 ? 512 : n;
    }
    int64_t chunks() const { return (pixels() + chunk() - 1) / chunk(); }  // of a sample
};

// Pixels of a sample that one thread takes.
struct Chunk {
    int64_t b, start, n;
    Chunk(const Shape &s, int64_t i) : b(i / s.chunks()), start(i % s.chunks() * s.chunk()) {
        n = s.pixels() - start < s.chunk() ? s.pixels() - start : s.chunk();
    }
};

// Where a map of patch_h x patch_w has the values of a pixel (see expand_patch in norm_twin.py).
struct Walk {
    const Shape &s;
    int64_t y, x;
    Walk(const Shape &s, int64_t pixel) : s(s), y(pixel / s.w), x(pixel % s.w) {}
    static int64_t at(int64_t i, int64_t length, int64_t patch) {
        int64_t near = patch / 2, far = patch - 1 - near;
        return i < near ? i : i >= length - far ? i - length + patch : near;
    }
    int64_t next() {
        int64_t found = at(y, s.h, s.patch_h) * s.patch_w + at(x, s.w, s.patch_w);
        if (++x == s.w) x = 0, y++;
        return found;
    }
};

// ---- statistics ----

// Mean and sum of squared deviations of each group over a chunk. Two passes over cached data: no cancellation
// however large the mean; the first is shifted by the chunk's first pixel.
template <class T>
void moments(const T *x, int64_t pixels, const Shape &s, float *scratch, double *mean, double *squares) {
    const int64_t c = s.c, wide = s.wide();
    float *sum = scratch, *middle = scratch + wide, *square = scratch + 2 * wide;
    std::memset(scratch, 0, 3 * wide * sizeof(float));
    by_rows(pixels, [&](int64_t p, auto rows) {
        constexpr int R = decltype(rows)::n;
        const T *row = x + p * c;
        by_vectors(c, [&](int64_t k, auto left) {
            V first = load(x + k, left), total = widen(sum + k), v[R];
            for (int r = 0; r < R; r++) v[r] = load(row + r * c + k, left) - first;
            narrow(sum + k, total + together(v, rows));
        });
    });
    by_vectors(c, [&](int64_t k, auto left) {
        narrow(middle + k, load(x + k, left) + widen(sum + k) * (1.0f / float(pixels)));
    });
    by_rows(pixels, [&](int64_t p, auto rows) {
        constexpr int R = decltype(rows)::n;
        const T *row = x + p * c;
        by_vectors(c, [&](int64_t k, auto left) {
            V m = widen(middle + k), total = widen(square + k), v[R];
            for (int r = 0; r < R; r++) {
                v[r] = load(row + r * c + k, left) - m;
                v[r] *= v[r];
            }
            narrow(square + k, total + together(v, rows));
        });
    });
    const int64_t per = s.c / s.groups;
    for (int64_t g = 0; g < s.groups; g++) {
        double total = 0, inside = 0, between = 0;
        const double base = double(middle[g * per]);
        for (int64_t k = g * per; k < (g + 1) * per; k++) {
            // the exact mean is first + sum / n; `middle` is that rounded
            double d = (double(widened(x[k])) - base) + double(sum[k]) / double(pixels);
            total += d;
            between += d * d;
            inside += double(square[k]);
        }
        mean[g] = base + total / double(per);
        squares[g] = inside + double(pixels) * (between - total * total / double(per));
    }
}

// mean and 1 / sqrt(variance + eps) of each sample and group, in fp64.
template <class T>
void statistics(void *parallel, int64_t threads, const Shape &s, const T *x, double eps, std::vector<double> &mean,
                std::vector<double> &rstd) {
    const int64_t chunks = s.chunks(), g = s.groups;
    std::vector<double> part(2 * s.b * chunks * g);
    std::vector<float> scratch(3 * s.wide() * s.b * chunks);
    for_each(parallel, threads, s.b * chunks, [&](int64_t i) {
        Chunk at(s, i);
        double *own = part.data() + 2 * g * i;
        moments(x + (at.b * s.pixels() + at.start) * s.c, at.n, s, scratch.data() + 3 * s.wide() * i, own, own + g);
    });
    for (int64_t b = 0; b < s.b; b++)
        for (int64_t j = 0; j < g; j++) {
            // Chan et al. (1979): moments of a union
            double m = 0, squares = 0, count = 0;
            for (int64_t k = 0; k < chunks; k++) {
                const double *own = part.data() + 2 * g * (b * chunks + k);
                double n = double(Chunk(s, k).n), delta = own[j] - m;
                m += delta * n / (count + n);
                squares += own[g + j] + delta * delta * count * n / (count + n) * double(s.c / g);
                count += n;
            }
            mean[b * g + j] = m;
            rstd[b * g + j] = 1.0 / std::sqrt(squares / (count * double(s.c / g)) + eps);
        }
}

inline double or_else(const float *p, int64_t i, double otherwise) { return p ? double(p[i]) : otherwise; }

// ---- forward ----

// out = act(n (1 + gamma) + beta S + T), n = (x - m) A + B; without a map out = act(n), S and T within A and B.
struct Coefficients {
    int64_t wide;
    std::vector<float> data;
    Coefficients(int64_t b, int64_t wide) : wide(wide), data(5 * b * wide) {}
    float *row(int64_t b, int which) { return data.data() + (5 * b + which) * wide; }
    const float *row(int64_t b, int which) const { return data.data() + (5 * b + which) * wide; }
};

template <class T, bool MAP, bool SILU>
void apply(const Shape &s, const Coefficients &of, const Chunk &chunk, const T *x, const T *map, T *out) {
    const int64_t c = s.c, b = chunk.b, first = b * s.pixels() + chunk.start;
    const float *m = of.row(b, 0), *A = of.row(b, 1), *B = of.row(b, 2), *S_ = of.row(b, 3), *T_ = of.row(b, 4);
    x += first * c;
    out += first * c;
    if (MAP) map += b * s.map_stride;
    Walk walk(s, chunk.start);
    by_rows(chunk.n, [&](int64_t p, auto rows) {
        constexpr int R = decltype(rows)::n;
        const T *at[R];
        for (int r = 0; r < R; r++) at[r] = MAP ? map + 2 * c * walk.next() : nullptr;
        by_vectors(c, [&](int64_t k, auto left) {
            V vm = widen(m + k), va = widen(A + k), vb = widen(B + k), vs = widen(S_ + k), vt = widen(T_ + k);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                V z = (load(x + (p + r) * c + k, left) - vm) * va + vb;
                if (MAP) z = z * load(at[r] + k, left) + (z + (load(at[r] + c + k, left) * vs + vt));
                store(out + (p + r) * c + k, SILU ? silu(z) : z, left);
            }
        });
    });
}

template <class T>
void forward(void *parallel, int64_t threads, const Shape &s, bool act, double eps, const T *x, const float *weight,
             const float *bias, const T *map, const float *scale, const float *shift, T *out, float *mean_out,
             float *rstd_out) {
    const int64_t c = s.c, g = s.groups, count = s.b * s.chunks();
    std::vector<double> mean(s.b * g), rstd(s.b * g);
    statistics(parallel, threads, s, x, eps, mean, rstd);
    Coefficients of(s.b, s.wide());
    for (int64_t i = 0; i < s.b * g; i++) mean_out[i] = float(mean[i]), rstd_out[i] = float(rstd[i]);
    for (int64_t b = 0; b < s.b; b++)
        for (int64_t k = 0; k < c; k++) {
            int64_t i = b * g + k / (c / g);
            double S_ = 1.0 + or_else(scale, b * c + k, 0), T_ = or_else(shift, b * c + k, 0);
            double a = rstd[i] * or_else(weight, k, 1);
            // what rounding takes from the mean is put back here
            double o = or_else(bias, k, 0) - (mean[i] - double(mean_out[i])) * a;
            of.row(b, 0)[k] = mean_out[i];
            of.row(b, 1)[k] = float(a * S_);
            of.row(b, 2)[k] = float(map ? o * S_ : o * S_ + T_);
            of.row(b, 3)[k] = float(S_);
            of.row(b, 4)[k] = float(T_);
        }
    for_each(parallel, threads, count, [&](int64_t i) {
        i = count - 1 - i;  // what the statistics read last is still cached
        Chunk at(s, i);
        auto run = map ? (act ? apply<T, true, true> : apply<T, true, false>)
                       : (act ? apply<T, false, true> : apply<T, false, false>);
        run(s, of, at, x, map, out);
    });
}

// ---- backward ----

// q = x - mean; n = q a + bias; u = n (1 + gamma) + beta; z = u S + T; dz = grad act'(z).
// Coefficients: 0 mean, 1 a = rstd weight, 2 bias, 3 S, 4 T; without a map S and T are within 1 and 2.
// Sums over pixels: 0 dz, 1 dz (1 + gamma) q, 2 dz u, 3 dz (1 + gamma); without a map the first two. dz itself
// is left where dh will be, so that the slope of SiLU is computed once.
template <class T, bool MAP, bool SILU>
void sums(const Shape &s, const Coefficients &of, const Chunk &chunk, const T *grad, const T *x, const T *map,
          T *dz_out, float *part) {
    const int64_t c = s.c, wide = s.wide(), b = chunk.b, first = b * s.pixels() + chunk.start;
    const float *m = of.row(b, 0), *A = of.row(b, 1), *B = of.row(b, 2), *S_ = of.row(b, 3), *T_ = of.row(b, 4);
    x += first * c;
    grad += first * c;
    dz_out += first * c;
    if (MAP) map += b * s.map_stride + 2 * c * chunk.start;
    by_rows(chunk.n, [&](int64_t p, auto rows) {
        constexpr int R = decltype(rows)::n;
        by_vectors(c, [&](int64_t k, auto left) {
            V vm = widen(m + k), va = widen(A + k), vb = widen(B + k), vs = widen(S_ + k), vt = widen(T_ + k);
            V t0 = {}, t1 = {}, t2 = {}, t3 = {};
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                V q = load(x + (p + r) * c + k, left) - vm, u = q * va + vb, z = u, one = {};
                if (MAP) {
                    one = 1.0f + load(map + (p + r) * 2 * c + k, left);
                    u = u * one + load(map + (p + r) * 2 * c + c + k, left);
                    z = u * vs + vt;
                }
                V dz = load(grad + (p + r) * c + k, left);
                if (SILU) {
                    dz *= silu_slope(z);
                    store(dz_out + (p + r) * c + k, dz, left);
                }
                t0 += dz;
                if (MAP) {
                    V dn = dz * one;
                    t1 += dn * q;
                    t2 += dz * u;
                    t3 += dn;
                } else {
                    t1 += dz * q;
                }
            }
            narrow(part + k, widen(part + k) + t0);
            narrow(part + wide + k, widen(part + wide + k) + t1);
            if (MAP) {
                narrow(part + 2 * wide + k, widen(part + 2 * wide + k) + t2);
                narrow(part + 3 * wide + k, widen(part + 3 * wide + k) + t3);
            }
        });
    });
}

// dh = dz (1 + gamma) P - Q - (x - mean) R; dgamma = dz S n, dbeta = dz S. dz may lie where dh goes.
template <class T, bool MAP>
void gradients(const Shape &s, const Coefficients &of, const Coefficients &more, const Chunk &chunk, const T *dz_in,
               const T *x, const T *map, T *dx, T *dmap) {
    const int64_t c = s.c, b = chunk.b, first = b * s.pixels() + chunk.start;
    const float *m = of.row(b, 0), *A = of.row(b, 1), *B = of.row(b, 2), *S_ = of.row(b, 3);
    const float *P = more.row(b, 0), *Q = more.row(b, 1), *R_ = more.row(b, 2);
    x += first * c;
    dz_in += first * c;
    dx += first * c;
    if (MAP) map += b * s.map_stride + 2 * c * chunk.start, dmap += 2 * c * first;
    by_rows(chunk.n, [&](int64_t p, auto rows) {
        constexpr int R = decltype(rows)::n;
        by_vectors(c, [&](int64_t k, auto left) {
            V vm = widen(m + k), va = widen(A + k), vb = widen(B + k), vs = widen(S_ + k);
            V vp = widen(P + k), vq = widen(Q + k), vr = widen(R_ + k);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                V q = load(x + (p + r) * c + k, left) - vm, dz = load(dz_in + (p + r) * c + k, left), dn = dz;
                if (MAP) {
                    V du = dz * vs;
                    dn = dz * (1.0f + load(map + (p + r) * 2 * c + k, left));
                    store(dmap + (p + r) * 2 * c + k, du * (q * va + vb), left);
                    store(dmap + (p + r) * 2 * c + c + k, du, left);
                }
                store(dx + (p + r) * c + k, dn * vp - (vq + q * vr), left);
            }
        });
    });
}

template <class T>
void backward(void *parallel, int64_t threads, const Shape &s, bool act, const T *grad, const T *x,
              const float *mean, const float *rstd, const float *weight, const float *bias, const T *map,
              const float *scale, const float *shift, T *dx, double *dweight, double *dbias, T *dmap, float *dscale,
              float *dshift) {
    const int64_t c = s.c, g = s.groups, per = c / g, chunks = s.chunks(), wide = s.wide();
    const int kinds = map ? 4 : 2;
    Coefficients of(s.b, wide), more(s.b, wide);
    for (int64_t b = 0; b < s.b; b++)
        for (int64_t k = 0; k < c; k++) {
            double S_ = 1.0 + or_else(scale, b * c + k, 0), T_ = or_else(shift, b * c + k, 0);
            double a = double(rstd[b * g + k / per]) * or_else(weight, k, 1), o = or_else(bias, k, 0);
            of.row(b, 0)[k] = mean[b * g + k / per];
            of.row(b, 1)[k] = float(map ? a : a * S_);
            of.row(b, 2)[k] = float(map ? o : o * S_ + T_);
            of.row(b, 3)[k] = float(S_);
            of.row(b, 4)[k] = float(T_);
        }
    std::vector<float> part(kinds * wide * s.b * chunks);
    for_each(parallel, threads, s.b * chunks, [&](int64_t i) {
        Chunk at(s, i);
        auto run = map ? (act ? sums<T, true, true> : sums<T, true, false>)
                       : (act ? sums<T, false, true> : sums<T, false, false>);
        run(s, of, at, grad, x, map, dx, part.data() + kinds * wide * i);
    });
    std::vector<double> total(s.b * kinds * wide);
    for_each(parallel, threads, s.b * kinds, [&](int64_t i) {
        double *to = total.data() + i * wide;
        for (int64_t j = 0; j < chunks; j++) {
            const float *from = part.data() + ((i / kinds * chunks + j) * kinds + i % kinds) * wide;
            for (int64_t k = 0; k < c; k++) to[k] += double(from[k]);
        }
    });
    const double n = double(s.pixels() * per);
    for (int64_t b = 0; b < s.b; b++) {
        const double *of_b = total.data() + b * kinds * wide;
        for (int64_t j = 0; j < g; j++) {
            double r = double(rstd[b * g + j]), c1 = 0, c2 = 0;
            for (int64_t k = j * per; k < (j + 1) * per; k++) {
                double S_ = 1.0 + or_else(scale, b * c + k, 0), w = or_else(weight, k, 1);
                double dz = of_b[k], dnq = of_b[wide + k];
                double dn = (map ? of_b[3 * wide + k] : dz) * S_, dnx = dnq * S_ * r;
                if (dshift) dshift[b * c + k] = float(dz);
                if (dscale) dscale[b * c + k] = float(map ? of_b[2 * wide + k] : w * r * dnq + or_else(bias, k, 0) * dz);
                if (dweight) dweight[k] += dnx;
                if (dbias) dbias[k] += dn;
                c1 += dn * w;
                c2 += dnx * w;
            }
            for (int64_t k = j * per; k < (j + 1) * per; k++) {
                double S_ = 1.0 + or_else(scale, b * c + k, 0), w = or_else(weight, k, 1);
                more.row(b, 0)[k] = float(S_ * w * r);
                more.row(b, 1)[k] = float(r * c1 / n);
                more.row(b, 2)[k] = float(r * r * c2 / n);
            }
        }
    }
    const int64_t count = s.b * chunks;
    for_each(parallel, threads, count, [&](int64_t i) {
        i = count - 1 - i;
        Chunk at(s, i);
        auto run = map ? gradients<T, true> : gradients<T, false>;
        run(s, of, more, at, act ? dx : grad, x, map, dx, dmap);
    });
}

template <class F> int status(const F &f) {
    try {
        f();
        return 0;
    } catch (...) {
        return 1;
    }
}

}  // namespace

// 0, or 1 where memory ran out. Absent tensors are null pointers. x, out, grad, dx: (b, h, w, c); map (gamma_beta)
// and dmap: (b, h, w, 2 c), in the forward a patch too; both of the type that `half` says: bf16 or fp32.
// dweight and dbias: fp64, zeroed.
extern "C" int msdm_norm_forward(void *parallel, int64_t threads, int64_t half, const int64_t *shape, int64_t act,
                                 double eps, const void *x, const float *weight, const float *bias, const void *map,
                                 const float *scale, const float *shift, void *out, float *mean, float *rstd) {
    const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6], shape[7]};
    return status([&] {
        if (half)
            forward<bf16>(parallel, threads, s, act, eps, (const bf16 *)x, weight, bias, (const bf16 *)map, scale,
                          shift, (bf16 *)out, mean, rstd);
        else
            forward<float>(parallel, threads, s, act, eps, (const float *)x, weight, bias, (const float *)map, scale,
                           shift, (float *)out, mean, rstd);
    });
}

extern "C" int msdm_norm_backward(void *parallel, int64_t threads, int64_t half, const int64_t *shape, int64_t act,
                                  const void *grad, const void *x, const float *mean, const float *rstd,
                                  const float *weight, const float *bias, const void *map, const float *scale,
                                  const float *shift, void *dx, double *dweight, double *dbias, void *dmap,
                                  float *dscale, float *dshift) {
    const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6], shape[7]};
    return status([&] {
        if (half)
            backward<bf16>(parallel, threads, s, act, (const bf16 *)grad, (const bf16 *)x, mean, rstd, weight, bias,
                           (const bf16 *)map, scale, shift, (bf16 *)dx, dweight, dbias, (bf16 *)dmap, dscale, dshift);
        else
            backward<float>(parallel, threads, s, act, (const float *)grad, (const float *)x, mean, rstd, weight,
                            bias, (const float *)map, scale, shift, (float *)dx, dweight, dbias, (float *)dmap,
                            dscale, dshift);
    });
}
