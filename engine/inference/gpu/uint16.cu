// Counts of a 16-bit camera to the network's unit range, and back.
//
// The same as engine/image/normalization.py does on the host, bit for bit: each operation is rounded by itself (__fsub_rn and the
// like are never fused), so that it makes no difference where a plane is converted.
//
// One thread a pixel; blockIdx.y is the plane of the batch (N x C of them, `pixels` each). ranges[plane] is its offset
// (x) and scale (y); scale 0 is a flat plane, which the network sees as 0 and which keeps its counts.
//
// The PTX beside this file is what is loaded: python benchmarks/gpu/ptx.py makes and checks it.

static __device__ __forceinline__ float in_unit(unsigned short count, float2 range) {
    return __fdiv_rn(__fsub_rn((float)count, range.x), range.y);
}

// What the network is given of a value, +-limit at most (engine/image/normalization.py, LIMIT).
static __device__ __forceinline__ float limited(float unit, float limit) {
    return fminf(fmaxf(unit, -limit), limit);
}

extern "C" __global__ void counts_to_unit(const unsigned short *counts, const float2 *ranges, float *unit,
                                          unsigned int pixels, float limit) {
    const unsigned int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels) return;
    const size_t at = (size_t)blockIdx.y * pixels + pixel;
    const float2 range = ranges[blockIdx.y];
    unit[at] = range.y == 0.0f ? 0.0f : limited(in_unit(counts[at], range), limit);
}

// `counts` holds what the camera saw and takes what was restored. `flag` is set where `restored` is no number: the counts
// are then worth nothing.
extern "C" __global__ void unit_to_counts(const float *restored, const float2 *ranges, unsigned short *counts,
                                          unsigned int *flag, unsigned int pixels, float limit) {
    const unsigned int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels) return;
    const size_t at = (size_t)blockIdx.y * pixels + pixel;
    const float2 range = ranges[blockIdx.y];
    const float found = restored[at];
    if (!(fabsf(found) <= 3.402823466e38f)) *flag = 1u;  // NaN or infinite
    if (range.y == 0.0f) return;
    const float unit = in_unit(counts[at], range);
    const float beyond = __fsub_rn(unit, limited(unit, limit));  // this went around the network
    const float count = __fadd_rn(__fmul_rn(__fadd_rn(found, beyond), range.y), range.x);
    counts[at] = (unsigned short)fminf(fmaxf(rintf(count), 0.0f), 65535.0f);
}
