#include "CVFIO.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

int cvfio_ioctl(int descriptor, unsigned long request, void *argument) {
    const int result = ioctl(descriptor, request, argument);
    return result < 0 ? -errno : result;
}

int cvfio_ioctl_number(int descriptor, unsigned long request, unsigned long argument) {
    const int result = ioctl(descriptor, request, argument);
    return result < 0 ? -errno : result;
}

/// The mapped address of an access that lies wholly in one area; null for any other.
static volatile char *mapped(const cvfio_region *region, uint64_t offset, uint32_t width) {
    for (uint32_t index = 0; index < region->area_count; index++) {
        const cvfio_area *area = &region->areas[index];
        if (offset >= area->offset && offset - area->offset + width <= area->byte_count)
            return (volatile char *)area->base + (offset - area->offset);
    }
    return NULL;
}

uint64_t cvfio_region_load(void *context, uint64_t offset, uint32_t width) {
    const cvfio_region *region = context;
    volatile char *address = mapped(region, offset, width);
    if (address != NULL) {
        switch (width) {
        case 1: return *(volatile uint8_t *)address;
        case 2: return *(volatile uint16_t *)address;
        case 4: return *(volatile uint32_t *)address;
        default: return *(volatile uint64_t *)address;
        }
    }
    // Little-endian, as PCI is and as every machine with vfio-pci and this software.
    uint64_t value = 0;
    const ssize_t done = pread(region->descriptor, &value, width, (off_t)(region->file_offset + offset));
    if (done == (ssize_t)width) return value;
    return width == 8 ? UINT64_MAX : ((uint64_t)1 << (8 * width)) - 1;
}

void cvfio_region_store(void *context, uint64_t offset, uint32_t width, uint64_t value) {
    const cvfio_region *region = context;
    volatile char *address = mapped(region, offset, width);
    if (address != NULL) {
        switch (width) {
        case 1: *(volatile uint8_t *)address = (uint8_t)value; return;
        case 2: *(volatile uint16_t *)address = (uint16_t)value; return;
        case 4: *(volatile uint32_t *)address = (uint32_t)value; return;
        default: *(volatile uint64_t *)address = value; return;
        }
    }
    const ssize_t done = pwrite(region->descriptor, &value, width, (off_t)(region->file_offset + offset));
    (void)done;
}

bool cvfio_locked_memory_limit(uint64_t *limit) {
    struct rlimit now;
    if (getrlimit(RLIMIT_MEMLOCK, &now) != 0 || now.rlim_cur == RLIM_INFINITY) return false;
    *limit = now.rlim_cur;
    return true;
}
