// The custom operator Resampler on a CPU: a delegate that LiteRT and TensorFlow Lite load as a plugin.
//
//     bash export/build_resampler.sh resampler.so
//
// GPU delegates have this operator built in, CPU runtimes do not: picture (N, H, W, C) and coordinates (N, h, w, 2), absolute,
// x then y, both float32, give bilinear samples (N, h, w, C). Beyond the picture a GPU takes zeros; here coordinates are
// clamped to it, as the files that faceeraser writes have done before they come here.
//
// Nothing is linked and no header is needed: what a plugin shares with its runtime is declared below, after TensorFlow
// Lite's C interface (tensorflow/lite/core/c/common.h), whose structures grow at their ends only. Source of the arithmetic:
// faceeraser/model/warp.py, `sample_rows`; tests/test_warp.py holds both to the same table.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

enum Status : int { kOk = 0, kError = 1 };
constexpr int kFloat32 = 1;
// Else a runtime does not let a delegate near a graph with an operator that it cannot prepare itself.
constexpr int64_t kAllowDynamicTensors = 1;

struct IntArray {
    int size;
    int data[1];
};

struct Tensor {
    int type;
    void *data;
    const IntArray *dims;
    struct { float scale; int32_t zero_point; } params;
    int allocation_type;
    size_t bytes;
    const void *allocation;
    const char *name;
    void *delegate;
    int buffer_handle;
    bool data_is_stale, is_variable;
    struct { int type; void *params; } quantization;
    void *sparsity;
    const IntArray *dims_signature;
};

struct Node {
    const IntArray *inputs, *outputs, *intermediates, *temporaries;
    void *user_data;
};

struct Context;
struct Delegate;

struct Registration {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    Status (*prepare)(Context *, Node *);
    Status (*invoke)(Context *, Node *);
    const char *(*profiling_string)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *later[8];  // it is passed by value: zeros for what newer runtimes read beyond
};

struct Context {
    size_t tensors_size;
    Status (*GetExecutionPlan)(Context *, IntArray **);
    Tensor *tensors;
    void *impl;
    void *resize_tensor;
    void (*ReportError)(Context *, const char *, ...);
    void *add_tensors;
    Status (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
    Status (*ReplaceNodeSubsetsWithDelegateKernels)(Context *, Registration, const IntArray *, Delegate *);
};

struct Delegate {
    void *data;
    Status (*Prepare)(Context *, Delegate *);
    void *copy_from, *copy_to, *free_buffer;
    int64_t flags;
    void *later[4];
};

struct DelegateParams {  // what a kernel's `init` is given
    Delegate *delegate;
    const IntArray *nodes, *inputs, *outputs;
};

struct Warp {  // indices of one operator's tensors
    int picture, coordinates, samples;
};

using Four = float __attribute__((vector_size(16)));

Four load(const float *from) {
    Four value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

Four spread(float value) { return Four{value, value, value, value}; }

struct Picture {
    const float *pixels;
    int height, width, channels;
};

// Where some samples lie: pixel to the left and above, and the weights of those to the right and below.
constexpr size_t kBlock = 128;
struct Block {
    int column[kBlock], line[kBlock];
    float wx[kBlock], wy[kBlock];
};

// A loop of its own, and plain, so that any compiler makes vector instructions of it.
void locate(const Picture &from, const float *at, size_t count, Block &block) {
    const float right = static_cast<float>(from.width - 1), bottom = static_cast<float>(from.height - 1);
    for (size_t i = 0; i < count; i++) {
        float x = at[2 * i], y = at[2 * i + 1];
        x = x > 0.0f ? x : 0.0f;  // NaN is 0
        y = y > 0.0f ? y : 0.0f;
        x = x < right ? x : right;
        y = y < bottom ? y : bottom;
        block.column[i] = static_cast<int>(x);
        block.line[i] = static_cast<int>(y);
        block.wx[i] = x - static_cast<float>(block.column[i]);
        block.wy[i] = y - static_cast<float>(block.line[i]);
    }
}

void sample(const Picture &from, const Block &block, size_t i, float *out) {
    const size_t row = static_cast<size_t>(from.width) * from.channels;
    const float *a = from.pixels + block.line[i] * row + block.column[i] * static_cast<size_t>(from.channels);
    const float *b = a + (block.column[i] < from.width - 1 ? from.channels : 0);
    const float *c = a + (block.line[i] < from.height - 1 ? row : 0), *d = c + (b - a);
    for (int k = 0; k < from.channels; k++) {
        const float top = a[k] + block.wx[i] * (b[k] - a[k]), bottom = c[k] + block.wx[i] * (d[k] - c[k]);
        out[k] = top + block.wy[i] * (bottom - top);
    }
}

// Three channels, read and written as four: `out` has room for one float more, which the next sample writes over.
void sample_three(const Picture &from, const Block &block, size_t count, float *out) {
    const size_t row = static_cast<size_t>(from.width) * 3;
    const float *last = from.pixels + row * from.height - 3;
    const int right = from.width - 1, bottom = from.height - 1;
    for (size_t i = 0; i < count; i++, out += 3) {
        const float *a = from.pixels + block.line[i] * row + block.column[i] * size_t{3};
        const float *b = a + (block.column[i] < right ? 3 : 0), *c = a + (block.line[i] < bottom ? row : 0);
        const float *d = c + (b - a);
        if (__builtin_expect(d == last, 0)) {  // a fourth float would lie behind the picture
            sample(from, block, i, out);
            continue;
        }
        const Four wx = spread(block.wx[i]), wy = spread(block.wy[i]), above = load(a), below = load(c);
        const Four top = above + wx * (load(b) - above), under = below + wx * (load(d) - below);
        const Four value = top + wy * (under - top);
        std::memcpy(out, &value, sizeof value);
    }
}

void resample(const Picture &from, const float *at, size_t count, float *out) {
    Block block;
    for (size_t done = 0; done < count; done += kBlock) {
        const size_t size = count - done < kBlock ? count - done : kBlock;
        locate(from, at + 2 * done, size, block);
        size_t i = 0;
        if (from.channels == 3) {
            i = done + size < count ? size : size - 1;
            sample_three(from, block, i, out);
        }
        for (; i < size; i++) sample(from, block, i, out + i * from.channels);
        out += size * from.channels;
    }
}

std::vector<Warp> &warps_of(Node *node) { return *static_cast<std::vector<Warp> *>(node->user_data); }

void *init(Context *context, const char *buffer, size_t) {
    auto *warps = new std::vector<Warp>;
    const IntArray *nodes = reinterpret_cast<const DelegateParams *>(buffer)->nodes;
    for (int i = 0; i < nodes->size; i++) {
        Node *node;
        Registration *registration;
        if (context->GetNodeAndRegistration(context, nodes->data[i], &node, &registration) == kOk)
            warps->push_back({node->inputs->data[0], node->inputs->data[1], node->outputs->data[0]});
    }
    return warps;
}

void release(Context *, void *warps) { delete static_cast<std::vector<Warp> *>(warps); }

Status prepare(Context *context, Node *node) {
    for (const Warp &warp : warps_of(node)) {
        const Tensor &from = context->tensors[warp.picture], &at = context->tensors[warp.coordinates];
        const Tensor &to = context->tensors[warp.samples];
        bool fits = from.type == kFloat32 && at.type == kFloat32 && to.type == kFloat32 && from.dims->size == 4 &&
                    at.dims->size == 4 && to.dims->size == 4 && at.dims->data[3] == 2 &&
                    to.dims->data[3] == from.dims->data[3] && from.dims->data[0] == at.dims->data[0];
        for (int k = 0; fits && k < 3; k++) fits = to.dims->data[k] == at.dims->data[k] && from.dims->data[k] > 0;
        if (!fits) {
            context->ReportError(context, "Resampler: expected float32 (N, H, W, C) and (N, h, w, 2) -> (N, h, w, C)");
            return kError;
        }
    }
    return kOk;
}

Status invoke(Context *context, Node *node) {
    for (const Warp &warp : warps_of(node)) {
        const Tensor &from = context->tensors[warp.picture], &at = context->tensors[warp.coordinates];
        const int *size = from.dims->data;
        const size_t count = static_cast<size_t>(at.dims->data[1]) * at.dims->data[2];
        Picture picture{static_cast<const float *>(from.data), size[1], size[2], size[3]};
        auto *coordinates = static_cast<const float *>(at.data);
        auto *samples = static_cast<float *>(context->tensors[warp.samples].data);
        for (int n = 0; n < size[0]; n++) {
            resample(picture, coordinates, count, samples);
            picture.pixels += static_cast<size_t>(size[1]) * size[2] * size[3];
            coordinates += count * 2;
            samples += count * size[3];
        }
    }
    return kOk;
}

Status take_resamplers(Context *context, Delegate *delegate) {
    IntArray *plan;
    if (context->GetExecutionPlan(context, &plan) != kOk) return kError;
    std::vector<int> nodes{0};  // an IntArray: its size, then its values
    for (int i = 0; i < plan->size; i++) {
        Node *node;
        Registration *registration;
        if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration) != kOk) return kError;
        if (registration->custom_name && !std::strcmp(registration->custom_name, "Resampler") && node->inputs->size == 2)
            nodes.push_back(plan->data[i]);
    }
    nodes[0] = static_cast<int>(nodes.size()) - 1;
    Registration kernel{};
    kernel.init = init;
    kernel.free = release;
    kernel.prepare = prepare;
    kernel.invoke = invoke;
    kernel.custom_name = "FaceEraserResampler";
    kernel.version = 1;
    return context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, reinterpret_cast<IntArray *>(nodes.data()), delegate);
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

Delegate *tflite_plugin_create_delegate(char **, char **, size_t, void (*)(const char *)) {
    auto *delegate = new Delegate{};
    delegate->Prepare = take_resamplers;
    delegate->flags = kAllowDynamicTensors;
    return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { delete delegate; }
}
#pragma GCC visibility pop
