// Threads, and memory that they keep.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace {

// Runs work(index) for all indices below `count`, on the threads of the OpenMP library
// that the process has loaded already; a second pool would compete with its idle threads.
template <class Work>
void in_parallel(int64_t count, int threads, Work work) {
    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
    static const auto parallel =
        reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    struct Shared {
        std::atomic<int64_t> next;
        int64_t count;
        Work& work;
    } shared{{0}, count, work};
    const auto take = [](void* data) {
        auto& own = *static_cast<Shared*>(data);
        for (int64_t index; (index = own.next++) < own.count;) own.work(index);
    };
    if (threads > 1 && count > 1 && parallel)
        parallel(take, &shared, unsigned(std::min<int64_t>(threads, count)), 0);
    else
        take(&shared);
}

struct Free {
    void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t(64)); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats floats(int64_t count) {
    return Floats(static_cast<float*>(::operator new[](4 * count, std::align_val_t(64))));
}

enum Use { kShared, kOwn, kSums, kUses };

// This thread's, kept for later calls: new pages cost more than what is done with them.
float* kept_memory(Use use, int64_t count) {
    thread_local Floats memory[kUses];
    thread_local int64_t sizes[kUses] = {};
    if (sizes[use] < count) {
        memory[use] = floats(sizes[use] = count);
        std::memset(memory[use].get(), 0, 4 * count);
    }
    return memory[use].get();
}

}  // namespace
