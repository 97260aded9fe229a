// The gradients of norm.cu's chain, in three launches: sums per channel, their merging, the gradients of the
// maps. Arithmetic is fp32. No atomics: the same input gives the same bits.

// What the chain computes at one value on its way, and the gradients that need no sum. dz goes to the
// normalisation, du to the modulation, dv to scale and shift.
struct Chain {
    float normal, z, u, du, dz, dv;
    __device__ Chain(float x, float grad, float m, float r, float w, float bias, float gamma, float beta, float s,
                     float t, bool silu) {
        normal = (x - m) * r;
        z = normal * w + bias;
        u = z * gamma + z + beta;
        dv = grad;
        if (silu) {
            const float v = u * s + t, sig = sigmoid(v);
            dv = grad * sig * (1.0f + v * (1.0f - sig));
        }
        du = dv * s;
        dz = du * gamma + du;
    }
};

template <int V>
struct Coefficients {
    float m[V], r[V], w[V], bias[V], s[V], t[V];
    __device__ Coefficients(const float* mean, const float* rstd, const float* weight, const float* bias_,
                            const float* scale, const float* shift, int b, int c, int groups, int each,
                            int scale_stride, int shift_stride) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const int g = b * groups + (c + v) / each;
            m[v] = mean[g];
            r[v] = rstd[g];
            w[v] = weight ? weight[c + v] : 1.0f;
            bias[v] = bias_ ? bias_[c + v] : 0.0f;
            s[v] = scale ? 1.0f + scale[(size_t)b * scale_stride + c + v] : 1.0f;
            t[v] = shift ? shift[(size_t)b * shift_stride + c + v] : 0.0f;
        }
    }
};

template <typename T, int V, int MAP>
__device__ inline void load_map(const T* map, size_t pixel, int channels, int c, float (&gamma)[V],
                                float (&beta)[V]) {
    if constexpr (MAP != 0) {
        load<T, V>(map + pixel * 2 * channels + c, gamma);
        load<T, V>(map + pixel * 2 * channels + channels + c, beta);
    } else {
#pragma unroll
        for (int v = 0; v < V; ++v) gamma[v] = beta[v] = 0.0f;
    }
}

// Per channel, summed over the pixels of a block: dz, dz GN(h), dv, dv u. partial: (B, chunks, 4, C).
// Shared: 1024 V floats.
template <typename T, int V, int MAP>
__global__ __launch_bounds__(256, 3) void norm_backward_sums(
    const T* __restrict__ grad, const T* __restrict__ h, float* __restrict__ partial,
    const float* __restrict__ mean, const float* __restrict__ rstd, const float* __restrict__ weight,
    const float* __restrict__ bias, const T* __restrict__ gamma_beta, const float* __restrict__ scale,
    const float* __restrict__ shift, int pixels, int channels, int groups, int span, int modulations,
    int scale_stride, int shift_stride, int silu) {
    extern __shared__ __align__(16) float shared[];  // (4, V, rows, width)
    const int b = blockIdx.y;
    const Place at(channels, V, pixels, span, blockIdx.x);
    const int plane = at.rows * at.width;
    const size_t offset = (size_t)b * pixels * channels;
    const T* const map = MAP ? gamma_beta + (modulations > 1 ? 2 * offset : 0) : nullptr;

    for (int tile = 0; tile < at.vectors; tile += at.width) {
        if (at.active(tile)) {
            const int c = (tile + at.column) * V;
            const Coefficients<V> k(mean, rstd, weight, bias, scale, shift, b, c, groups, channels / groups,
                                    scale_stride, shift_stride);
            float sums[4][V];
#pragma unroll
            for (int v = 0; v < V; ++v) sums[0][v] = sums[1][v] = sums[2][v] = sums[3][v] = 0.0f;
#pragma unroll 2
            for (int p = at.first + at.row; p < at.last; p += at.rows) {
                float g[V], x[V], gamma[V], beta[V];
                load<T, V>(grad + offset + (size_t)p * channels + c, g);
                load<T, V>(h + offset + (size_t)p * channels + c, x);
                load_map<T, V, MAP>(map, p, channels, c, gamma, beta);
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    const Chain y(x[v], g[v], k.m[v], k.r[v], k.w[v], k.bias[v], gamma[v], beta[v], k.s[v], k.t[v],
                                  silu);
                    sums[0][v] += y.dz;
                    sums[1][v] += y.dz * y.normal;
                    sums[2][v] += y.dv;
                    sums[3][v] += y.dv * y.u;
                }
            }
#pragma unroll
            for (int v = 0; v < V; ++v) {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    shared[(j * V + v) * plane + at.row * at.width + at.column] = sums[j][v];
            }
        }
        __syncthreads();
        const int wide = at.in_tile(tile);
        for (int i = threadIdx.x; i < 4 * wide * V; i += blockDim.x) {
            const int column = i % wide, jv = i / wide;
            float s = 0.0f;
            for (int row = 0; row < at.rows; ++row) s += shared[jv * plane + row * at.width + column];
            const size_t place = ((size_t)b * gridDim.x + blockIdx.x) * 4 + jv / V;
            partial[place * channels + (tile + column) * V + jv % V] = s;
        }
        __syncthreads();
    }
}

// The chunks' sums merged: 32 channels to a block, blockIdx.y = sum * B + sample. sums: (4, B, C).
// Shared: 256 floats.
__global__ __launch_bounds__(256) void norm_backward_merge(
    const float* __restrict__ partial, float* __restrict__ sums, int batch, int channels, int chunks) {
    extern __shared__ __align__(16) float shared[];
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32, rows = blockDim.x / 32;
    const int c = blockIdx.x * 32 + lane, j = blockIdx.y / batch, b = blockIdx.y % batch;
    float s = 0.0f;
    if (c < channels) {
        for (int i = row; i < chunks; i += rows) s += partial[(((size_t)b * chunks + i) * 4 + j) * channels + c];
    }
    shared[threadIdx.x] = s;
    __syncthreads();
    if (row == 0 && c < channels) {
        for (int i = 1; i < rows; ++i) s += shared[i * 32 + lane];
        sums[(size_t)blockIdx.y * channels + c] = s;
    }
}

// dh and, with MAP, dgamma_beta (B, 2 C, H, W). sums: (4, B, C) of norm_backward_merge. Shared: 2 groups floats.
template <typename T, int V, int MAP>
__global__ __launch_bounds__(256, 3) void norm_backward_apply(
    const T* __restrict__ grad, const T* __restrict__ h, T* __restrict__ dh, T* __restrict__ dgamma_beta,
    const float* __restrict__ sums, const float* __restrict__ mean, const float* __restrict__ rstd,
    const float* __restrict__ weight, const float* __restrict__ bias, const T* __restrict__ gamma_beta,
    const float* __restrict__ scale, const float* __restrict__ shift, int pixels, int channels, int groups,
    int span, int modulations, int scale_stride, int shift_stride, int silu) {
    extern __shared__ __align__(16) float shared[];
    const int b = blockIdx.y, batch = gridDim.y, each = channels / groups, lane = threadIdx.x % 32;
    const Place at(channels, V, pixels, span, gridDim.x - 1 - blockIdx.x);
    const size_t offset = (size_t)b * pixels * channels;
    const T* const map = MAP ? gamma_beta + (modulations > 1 ? 2 * offset : 0) : nullptr;
    T* const dmap = MAP ? dgamma_beta + 2 * offset : nullptr;

    // the group's means of dz w and of dz w GN(h)
    for (int group = threadIdx.x / 32; group < groups; group += blockDim.x / 32) {
        float s = 0.0f, q = 0.0f;
        for (int i = lane; i < each; i += 32) {
            const int c = group * each + i;
            const float w = weight ? weight[c] : 1.0f;
            s += w * sums[(size_t)b * channels + c];
            q += w * sums[(size_t)(batch + b) * channels + c];
        }
        s = warp_sum(s);
        q = warp_sum(q);
        if (lane == 0) {
            const float total = (float)each * (float)pixels;
            shared[2 * group] = s / total;
            shared[2 * group + 1] = q / total;
        }
    }
    __syncthreads();

    for (int tile = 0; tile < at.vectors; tile += at.width) {
        if (!at.active(tile)) continue;
        const int c = (tile + at.column) * V;
        const Coefficients<V> k(mean, rstd, weight, bias, scale, shift, b, c, groups, each, scale_stride,
                                shift_stride);
        float s[V], q[V];
#pragma unroll
        for (int v = 0; v < V; ++v) {
            s[v] = shared[2 * ((c + v) / each)];
            q[v] = shared[2 * ((c + v) / each) + 1];
        }
#pragma unroll 2
        for (int p = at.first + at.row; p < at.last; p += at.rows) {
            const size_t place = offset + (size_t)p * channels + c;
            float g[V], x[V], gamma[V], beta[V];
            load<T, V>(grad + place, g);
            load<T, V>(h + place, x);
            load_map<T, V, MAP>(map, p, channels, c, gamma, beta);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const Chain y(x[v], g[v], k.m[v], k.r[v], k.w[v], k.bias[v], gamma[v], beta[v], k.s[v], k.t[v],
                              silu);
                x[v] = k.r[v] * (y.dz * k.w[v] - s[v] - y.normal * q[v]);
                gamma[v] = y.du * y.z;
                beta[v] = y.du;
            }
            store<V>(dh + place, x);
            if constexpr (MAP != 0) {
                store<V>(dmap + (size_t)p * 2 * channels + c, gamma);
                store<V>(dmap + (size_t)p * 2 * channels + channels + c, beta);
            }
        }
    }
}
